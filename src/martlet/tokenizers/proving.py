"""Texts that tell two tokenizers apart: languages, scripts, numbers, spaces, code, pieces of the vocabulary."""

from __future__ import annotations

import random
from typing import Any

SENTENCES = (
    "The quick brown fox doesn't jump over the lazy dog's back; it's 3.14 o'clock, isn't it?",
    "I'LL we've THEY'RE you'd i'm he's DON'T o'clock 'tis rock 'n' roll ''quoted'' “curly” ‘single’",
    "Größere Straßenbäume überwuchsen die Äcker; ẞ ß ſ ﬁ ﬂ Å Å Ｆｕｌｌ ｗｉｄｔｈ",
    "Où est l'élève naïf ? À l’école, ça va « bien » — n'est-ce pas ?",
    "¿Dónde está el niño? ¡Mañana comeremos piñas y pingüinos!",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy. Árvíztűrő tükörfúrógép.",
    "İstanbul'da ılık bir gün; ığdır çiğ köfte. Đặng Thị Hồng Nhung đi chợ Bến Thành.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Їжак ґанок єдність.",
    "Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία. ΑΒΓ αβγ ς σ",
    "דג סקרן שט בים מאוכזב ולפתע מצא לו חברה. שָׁלוֹם",
    "نص حكيم له سر قاطع وذو شأن عظيم. ﷺ لا إله ٠١٢٣٤ ۰۱۲۳",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश। १२३",
    "আমি বাংলায় গান গাই। தமிழ் மொழி அழகானது. తెలుగు భాష. ಕನ್ನಡ. മലയാളം. ગુજરાતી. ਪੰਜਾਬੀ.",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ๑๒๓ ລາວ ខ្មែរ မြန်မာ",
    "我能吞下玻璃而不伤身体。漢字と仮名交じり文、カタカナ・ひらがな。ｶﾀｶﾅ 한국어 띄어쓰기 테스트입니다.",
    "いろはにほへと ちりぬるを わかよたれそ つねならむ ㍻ ㌔ ①②③",
    "ქართული ენა. Հայոց լեզու. ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ አማርኛ ⵜⴰⵎⴰⵣⵉⵖⵜ བོད་སྐད",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇫🇷🇩🇪 ☃️ 1️⃣ 🤷🏾‍♀️ 😀😃😄 e\u0301 n\u0303 a\u0308\u0323 ⏭️",
    'def f(x: int = 0) -> str:\n\treturn f"{x!r:>10}"  # comment\n\n\nclass A(B):\n    pass\n',
    "for (int i=0;i<10;++i){a[i]+=b[i]<<2;} // ok\r\nSELECT * FROM t WHERE a>=1 AND b!='x';\r\n",
    '<html><body class="a-b_c">&nbsp;&amp;</body></html> {"k": [1, 2.5e-10, null, true]} $x^2_{i}$ \\frac{a}{b}',
    "https://example.org/a/b?c=d&e=f#g user.name+tag@mail.example.com C:\\Users\\me ../up/./x.tar.gz v1.2.3-rc.4",
    "0 1 12 123 1234 12345 123456 1234567 12345678901234567890 1,234,567.89 0x1F 1e-5 3/4 ½ ² ₃ Ⅷ 50% $5 €6 №7",
    "   leading\ttabs\t\tand  double  spaces   \n\n  \n\t \r\n \r trailing   ",
    "\u00a0nbsp\u2003em\u2009thin\u200bzero\u200d\u2060\ufeffbom\u3000wide\u0085nel\u2028line\u2029par\x0bvt\x0cff",
    "!!! ??? ... --- *** ___ === ~~~ ### @@@ %%% &&& ((())) [[[]]] {{{}}} <<<>>> ;;; ::: ,,, ''' \"\"\" ``` |||",
    "aAaAaA HelloWorld helloWorld hello_world HELLO_WORLD snake-case ALLCAPS iPhone McDonald's x86_64 COVID-19",
    "\x00\x01\x02\x1f\x7f\x80\x9f\ud7ff\ue000\ufffd\uffff\U00010000\U0001f600\U0010ffff",
)
# first code point and size of stretches that normalizers and splitters treat in ways of their own
STRETCHES = (
    *((0x20, 95), (0xA0, 96), (0x100, 128), (0x180, 208), (0x250, 96), (0x2B0, 80), (0x300, 112), (0x370, 144)),
    *((0x400, 256), (0x530, 96), (0x590, 112), (0x600, 256), (0x700, 80), (0x900, 128), (0x980, 128), (0xE00, 96)),
    *((0xF00, 128), (0x1000, 160), (0x10A0, 96), (0x1100, 128), (0x1200, 128), (0x1E00, 256), (0x1F00, 256)),
    *((0x2000, 112), (0x2070, 48), (0x20A0, 48), (0x2100, 80), (0x2150, 64), (0x2190, 112), (0x2200, 256)),
    *((0x2460, 160), (0x2500, 128), (0x2600, 256), (0x3000, 64), (0x3040, 192), (0x3100, 48), (0x3200, 256)),
    *((0x4E00, 1024), (0xA000, 128), (0xAC00, 1024), (0xF900, 128), (0xFB00, 80), (0xFE20, 48), (0xFF00, 240)),
    *((0x10330, 32), (0x1D400, 128), (0x1F300, 256), (0x1F600, 80), (0x20000, 64)),
)


def proving_texts(tokenizer: Any) -> list[str]:
    """About 2,500 texts, the same each time for a vocabulary. `tokenizer` is one of `tokenizers`."""
    draw = random.Random(20)
    texts = ["", " ", "\n", *SENTENCES, *(sentence.lower() for sentence in SENTENCES)]
    texts += [sentence[cut:] for sentence in SENTENCES for cut in (1, 2, 5, 11)]
    texts += [" ".join(draw.sample(SENTENCES, 3)) for _ in range(20)]
    texts += [sign * count for sign in "a A1 \n\té中の한!_" for count in (2, 3, 7, 64, 300)]
    for first, size in STRETCHES:
        signs = [chr(point) for point in range(first, first + size) if not 0xD800 <= point < 0xE000]
        for _ in range(8):
            texts.append("".join(draw.choice(signs) for _ in range(12)))
            texts.append(" ".join("".join(draw.choice(signs) for _ in range(draw.randint(1, 5))) for _ in range(5)))
            texts.append(
                "".join(draw.choice([*draw.sample(signs, 3), " ", "a", "1", "'", "\n", "."]) for _ in range(16))
            )
    return texts + _of_vocabulary(tokenizer, draw)


def _of_vocabulary(tokenizer: Any, draw: random.Random) -> list[str]:
    """Pieces of the vocabulary side by side, where merges meet; and its special tokens inside text."""
    size = tokenizer.get_vocab_size()
    numbers = [draw.randrange(size) for _ in range(4000)]
    pieces = [piece for piece in (tokenizer.decode([number], skip_special_tokens=False) for number in numbers) if piece]
    texts = []
    for first in range(0, len(pieces), 8):
        group = pieces[first : first + 8]
        texts += ["".join(group), " ".join(group)]
    for token in list(tokenizer.get_added_tokens_decoder().values())[:40]:
        text = token.content
        texts += [text, f"a{text}b", f" {text} ", f"x {text}{text}\ny", text[:-1], text.lower()]
    return texts
