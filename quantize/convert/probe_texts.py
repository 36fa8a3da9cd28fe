"""Short texts in many scripts, for comparing tokenizers."""

from __future__ import annotations

WORDS = {
    "Latin": "The quick brown fox doesn't jump over 13 lazy dogs",
    "French": "Où êtes-vous allés, garçon ? L'été dernier",
    "German": "Größe und Straße, schön übermütig",
    "Turkish": "İstanbul'da ılık rüzgâr, şeker çayı",
    "Vietnamese": "Tiếng Việt rất đẹp và dễ thương",
    "Greek": "Καλημέρα κόσμε, τι κάνεις σήμερα",
    "Cyrillic": "Съешь ещё этих мягких французских булок",
    "Armenian": "Բարեւ աշխարհ, ինչպես ես",
    "Georgian": "გამარჯობა მსოფლიო",
    "Hebrew": "שלום עולם מה שלומך",
    "Arabic": "مرحبا بالعالم كيف حالك",
    "Devanagari": "नमस्ते दुनिया आप कैसे हैं",
    "Bengali": "ওহে বিশ্ব তুমি কেমন আছ",
    "Tamil": "வணக்கம் உலகம் எப்படி இருக்கிறாய்",
    "Telugu": "హలో ప్రపంచం ఎలా ఉన్నారు",
    "Thai": "สวัสดีชาวโลก สบายดีไหม",
    "Lao": "ສະບາຍດີຊາວໂລກ",
    "Khmer": "សួស្តីពិភពលោក",
    "Amharic": "ሰላም ለዓለም እንዴት ነህ",
    "Hangul": "안녕하세요 세계 어떻게 지내세요",
    "Hiragana": "こんにちは せかい カタカナ",
    "Han": "你好世界，今天天气怎么样",
}

OTHERS = (
    "x",
    "1 22 333 4444 55555 3.14159 1,000,000",
    "I'm you're he'll we've they'd IT'S DON'T",
    "def f(x):\n    return x ** 2  # comment\n\n\tif a != b:\n\t\tpass\n",
    "spaces   inside    a text     of words ",
    "line\nbreaks\r\nof\n\n\nall\r\rkinds\n",
    "tabs\t\tand \t mixed \n white",
    "emoji 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️ and symbols © ™ ∑ ≠ € £ ¥",
    "https://example.org/a?b=c&d=%20#e user@example.org",
    "quotes \"double\" 'single' `back` «angle» “curly”",
    "CamelCase snake_case kebab-case SCREAMING_CASE",
    "... --- *** ### !!! ??? ((())) [[[]]] {{{}}}",
    "a" * 40,
    "\u00a0no-break\u2003em\u3000ideographic\u200bzero",
)

REQUIRED_SCRIPTS = ("Latin", "French", "German", "marks")
"""Scripts that must be tokenized correctly. For others llama.cpp implements some tokenizers' rules only in part."""


def probe_texts() -> list[tuple[str, str]]:
    """Returns pairs of script and text, in composed form (NFC) and without leading white space."""
    cased = [(script, line.upper()) for script, line in list(WORDS.items())[:8]]
    return [*WORDS.items(), *cased, *(("marks", text) for text in OTHERS)]
