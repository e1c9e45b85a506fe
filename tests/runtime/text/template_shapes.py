"""Chat templates by the shape of those of real checkpoints."""
# ruff: noqa: E501 (long lines, as templates have)

#: What they take as content, where BOS stands, how roles are written.
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama-3": (
        "{{- bos_token }}{%- for m in messages %}{{- '<|start|>' + m['role'] + '<|stop|>\n\n' + m['content'] | trim + '<|end|>' }}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start|>assistant<|stop|>\n\n' }}{%- endif %}"
    ),
    "mistral": (
        "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}"
        "{%- else %}{%- set loop_messages = messages %}{%- endif %}{{- bos_token }}{%- for m in loop_messages %}"
        "{%- if m['role'] == 'user' %}{%- if loop.last and system is defined %}{{- '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}"
        "{%- else %}{{- '[INST] ' + m['content'] + '[/INST]' }}{%- endif %}{%- elif m['role'] == 'assistant' %}"
        "{{- ' ' + m['content'] + eos_token }}{%- endif %}{%- endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}"
        "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + (first if loop.first else '') }}"
        "{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}{% for p in m['content'] %}{{ p['text'] | trim }}{% endfor %}{% endif %}"
        "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "llava-1.5": (
        "{% for m in messages %}{{ m['role'] | upper }}: {% for p in m['content'] | selectattr('type', 'equalto', 'text') %}"
        "{{ p['text'] }}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    "qwen2-vl": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}<|im_end|>\n{% else %}"
        "{% for c in m['content'] %}{% if c['type'] == 'image' or 'image' in c %}<|image|>{% elif 'text' in c %}{{ c['text'] }}{% endif %}"
        "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "qwen3": (
        "{%- for m in messages %}{%- if m.role == 'assistant' %}{%- set content = m.content.split('</think>')[-1].lstrip('\n') %}"
        "{%- else %}{%- set content = m.content %}{%- endif %}{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
        "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
    ),
    "tools": (
        "{%- if tools %}{{- '<tools>' }}{%- for t in tools %}{{- t | tojson }}{%- endfor %}{{- '</tools>' }}{%- endif %}"
        "{%- for m in messages %}{{- '<|' + m.role + '|>' }}{%- if m.content %}{{- m.content }}{%- endif %}"
        "{%- for c in m.tool_calls or [] %}{{- '<call>' + c.function.name + ':' + (c.function.arguments | tojson) + '</call>' }}"
        "{%- endfor %}{{- '<|end|>' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
    ),
    "system as a string, the rest as parts": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ '[' + m.content + ']' }}{% else %}{{ m.role }}:"
        "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %};{% endif %}{% endfor %}"
    ),
}
