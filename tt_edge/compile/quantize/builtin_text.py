"""Text to calibrate on where the user gives none: prose, dialogue, instructions, numbers, code and a few languages.

Some 1,600 words, a little of every kind. They find the usual ranges of activations; text like what the model will read
finds the right ones.
"""

PASSAGES = (
    "The light ahead turns yellow while the van is still forty metres from the line. The driver lifts her foot, checks the "
    "mirror, and lets the car roll. Behind her a cyclist is gaining on the right, so she keeps her lane and brakes gently.",
    "Question: A train leaves at 8:15 and arrives at 11:40. How long does the journey take?\nAnswer: From 8:15 to 11:15 are "
    "three hours, and from there to 11:40 are twenty-five minutes. The journey takes 3 hours and 25 minutes.",
    "def running_mean(values, window):\n    total = sum(values[:window])\n    means = [total / window]\n    for old, new in "
    "zip(values, values[window:]):\n        total += new - old\n        means.append(total / window)\n    return means\n",
    "Salt marshes lie between land and sea. Twice a day the tide covers them and leaves a little mud behind, so the ground rises "
    "slowly, year after year. Few plants stand the salt; those that do hold the mud together with their roots.",
    "User: My sourdough is flat again. What am I doing wrong?\nAssistant: Two things are likely. Either the starter was not at "
    "its peak when you used it, or the dough stood too long and lost its strength. Does the starter double within six hours?",
    "Der Zug hatte wieder Verspätung, und auf dem Bahnsteig standen die Leute dicht gedrängt. Ein Kind fragte, ob es heute noch "
    "schneien werde. Niemand wusste es, aber alle schauten nach oben.",
    "The committee met on 14 March 2019 and approved a budget of $4,250,000, of which 38% goes to roads, 27% to schools, 19% to "
    "water and the rest to reserves. Two members voted against it; one was absent.",
    "To change the filter, switch the pump off and close both valves. Unscrew the housing by hand; have a bucket ready. Rinse the "
    "seal, grease it thinly, put the new cartridge in, and screw the housing on until it is hand-tight. Open the inlet slowly.",
    "She had not planned to stay. But the house was warm, the dog had fallen asleep on her feet, and somebody was frying onions. "
    "By the time the rain stopped it was dark, and the last bus had gone without her.",
    "SELECT customer, SUM(amount) AS total\nFROM orders\nWHERE placed >= '2024-01-01'\nGROUP BY customer\nHAVING SUM(amount) > "
    "1000\nORDER BY total DESC\nLIMIT 20;",
    "Bees see ultraviolet light, which we do not. Many flowers that look plain to us have bright lines in ultraviolet, which lead "
    "to the nectar. From a bee's point of view a meadow is full of arrows.",
    "Le marché ouvre à sept heures. Les premiers clients sont des cuisiniers qui cherchent des herbes, du poisson et des tomates "
    "bien mûres. À midi il ne reste que des cageots vides et quelques pigeons.",
    "Dear Ms Okafor,\n\nthank you for your letter of 3 June. We have looked into the matter and found that the parcel was "
    "delivered to the wrong entrance. A replacement left our warehouse this morning; you should have it by Thursday.\n\nYours "
    "sincerely,\nT. Lindqvist",
    "The derivative of a product is not the product of the derivatives. If f(x) = x^2 and g(x) = sin x, then (fg)' = 2x sin x + "
    "x^2 cos x. At x = 0 both terms vanish, so the curve starts out flat.",
    "User: Translate 'good morning' into Spanish, Swahili and Finnish.\nAssistant: Spanish: buenos días. Swahili: habari ya "
    "asubuhi. Finnish: hyvää huomenta.",
    "The old bridge carried one lane of traffic for ninety years. Engineers found that the bearings had rusted solid, so that "
    "every hot day pushed the piers apart by a few millimetres. Replacing it took fourteen months and 2,300 tonnes of steel.",
    '{"vehicle": "truck 7", "position": {"lat": 48.1371, "lon": 11.5754}, "speed_kmh": 62.5, "warnings": ["tyre pressure", '
    '"door open"], "driver": null, "eta": "2025-02-11T16:40:00Z"}',
    "Photosynthesis has two stages. In the first, light splits water and charges up two carriers of energy. In the second, which "
    "needs no light, these carriers pay for building sugar out of carbon dioxide. The oxygen that we breathe is left over.",
    "Once a king promised half of his land to whoever could make him laugh. Clowns came, and poets, and a man with a dancing "
    "goose. The king yawned at all of them. Then a girl asked him which half.",
    "In low gear the robot climbs a slope of thirty degrees. Its arm reaches 1.2 metres and lifts 8 kilograms. The battery lasts "
    "about four hours when driving and ten when standing; charging takes ninety minutes at 48 volts and 20 amperes.",
    "今天早上下了一场小雨，路面有点滑。公交车晚了十分钟，不过大家都很有耐心。到了中午，太阳又出来了。",
    "User: Is it safe to overtake here?\nAssistant: No. The line in the middle is solid, the bend ahead hides oncoming cars, and a "
    "cyclist is on the right. Stay behind the truck until the road is straight and the line is broken.",
    "Minutes. Present: Ana, Jonas, Mei, Tariq. 1. The release moves to the 21st. 2. Mei will write the migration guide. 3. The "
    "test machines run out of disk every Sunday; Jonas deletes old images and sets up a limit. 4. Next meeting: Tuesday, 10:00.",
    "for (size_t i = 0; i + 1 < count; ++i) {\n    if (samples[i].time > samples[i + 1].time) {\n        fprintf(stderr, "
    '"sample %zu is out of order\\n", i);\n        return -1;\n    }\n}\nreturn 0;\n',
    "A good knife needs two things: a steel that takes an edge, and an owner who keeps it. Sharpen it on a wet stone at the same "
    "angle every time, a little and often. Never put it in the dishwasher, where it knocks against plates for an hour.",
    "If all the ice in Greenland melted, the seas would rise by about seven metres. It would take centuries. But a tenth of that "
    "is enough to put many harbours under water at high tide, and that may take no longer than a lifetime.",
    "The violin has four strings, tuned in fifths: G, D, A and E. The player's left hand shortens them, the right hand draws the "
    "bow. Since there are no frets, every note has to be found by ear, which is why beginners sound the way they do.",
    "El puerto estaba casi vacío. Dos pescadores remendaban una red y hablaban del viento, que llevaba tres días soplando del "
    "norte. Mañana, decían, habría que salir temprano o no salir.",
    "Step 1: measure the width of the window in three places and note the smallest. Step 2: subtract five millimetres. Step 3: "
    "saw the board at a right angle. Step 4: sand the cut, paint it twice, and let it dry overnight before you fix it.",
    "The patient is a 54-year-old man with chest pain for two hours. Blood pressure 148/92, pulse 96, oxygen 97% on air. The ECG "
    "shows no ST elevation. Troponin was taken at 10:20 and will be repeated after three hours.",
    "User: Write a haiku about a parking lot.\nAssistant: Painted lines, no cars.\nA gull walks from space to space,\nlooking for "
    "its own.",
    "Prices rose by 2.1% in April after 2.4% in March. Energy was cheaper than a year before, food dearer. The bank left its rate "
    "at 3.75% and said that it would wait for the figures of the summer before it decided what to do.",
    "Two roads meet at a crossing without signs. Here the car from the right goes first. If four cars arrive at once, nobody has "
    "the right of way, and one of the drivers has to wave. Usually everybody waves, and then everybody waits.",
    "The moon is moving away from us by 3.8 centimetres a year. We know that because astronauts left mirrors there, and a flash of "
    "laser light takes a little longer to come back every time we send one.",
    "Ingredients: 250 g flour, 125 g butter, 1 egg, a pinch of salt, 2 tablespoons of cold water. Rub the butter into the flour, "
    "add the rest, and press it together quickly. Chill for half an hour. Roll it out 3 mm thick and bake blind at 190 °C.",
    "WARNING 2024-11-03 04:12:55 sensor[3]: temperature 81.4 C above limit 80.0 C\nINFO 2024-11-03 04:12:56 fan: speed 2400 -> "
    "3600 rpm\nINFO 2024-11-03 04:14:10 sensor[3]: temperature 76.9 C",
    "Nobody remembers who built the wall. It runs straight over the hills, through a wood and into the lake, where it ends. On the "
    "other shore there is nothing. Some say the water was lower then; others that the builders simply stopped.",
    "User: Count from ten down to one, but skip the multiples of three.\nAssistant: 10, 8, 7, 5, 4, 2, 1.",
    "A lens bends light because light is slower in glass. A ray that meets the surface at an angle turns towards the normal, and "
    "away from it again where it leaves. Curve both surfaces the right way, and all rays from one point meet in another.",
    "The tenant shall return the flat in the condition in which it was taken over, apart from ordinary wear. Holes in walls are to "
    "be filled, fittings that were removed to be put back, and all keys to be handed over, copies included.",
)
