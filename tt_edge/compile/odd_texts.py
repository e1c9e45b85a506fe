"""Texts that a tokenizer may get wrong."""

#: Texts that tokenizers differ on: scripts, spaces, numbers, code, emoji of several code points, control characters.
ODD_TEXTS = (
    "The light ahead is red. What should the car do?",
    "",
    " ",
    "  two  spaces   three\ttab\n\nlines\r\n",
    "don't DON'T I'll we've O'Neill's",
    "12345678 3.14 1,000,000 1e-5 0x1F",
    "naïve café — “quotes” … №½ ﬁ",
    "e\u0301 \u00e9 \u1e9b\u0323",
    "日本語の文章。中文，标点！한국어 문장",
    "Привет, мир! Γειά σου שלום مرحبا नमस्ते สวัสดี",
    "👍🏽 👩‍👩‍👧 🇩🇪 😀😀",
    "for (int i = 0; i < n; ++i) { x[i] *= 2; }  # TODO",
    "<s> </s> [CLS] [MASK] <|endoftext|> <unk> <pad>",
    "\u200b\u00a0\u3000\ufeffzero width\u0000nul",
    "a" * 40 + "ß" * 5,
    "https://example.com/a?b=c&d=%20e@f.g",
)
