"""Generate inverse text normalisation cases: spoken words in, written form out.

    the third of march nineteen eighty seven          1987-03-03
    twenty five past six in the evening               18:25
    four hundred and twelve dollars and nine cents    $412.09
    two million and one                               2000001

A quarter of the *values* of every domain is held out by a hash, so a test case never shows a
value that training showed in another phrasing.
"""

import datetime
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

DOMAINS = ("dates", "times", "amounts", "numbers")
# The first salt for which the values of all four sentences of EXAMPLES are held out.
HELD_OUT_SALT = "323"
HELD_OUT_ONE_IN = 4
FIRST_YEAR, LAST_YEAR = 1800, 2099

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
SCALES = ((1_000_000, "million"), (1_000, "thousand"))
IRREGULAR_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
    "nine": "ninth", "twelve": "twelfth", "twenty": "twentieth", "thirty": "thirtieth",
}  # fmt: skip
MONTHS = (
    "january february march april may june july august september october november december"
).split()
WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
CURRENCIES = {  # symbol: names of many, one; of many and one hundredth
    "$": (("dollars", "dollar"), ("cents", "cent")),
    "€": (("euros", "euro"), ("cents", "cent")),
    "£": (("pounds", "pound"), ("pence", "penny")),
}
SLANG = {"$": "bucks", "£": "quid"}


@dataclass(frozen=True)
class Case:
    """One task case: the words, what they must become, and which domain they belong to."""

    domain: str
    text: str
    expected: str


EXAMPLES = (
    Case("dates", "the third of march nineteen eighty seven", "1987-03-03"),
    Case("times", "twenty five past six in the evening", "18:25"),
    Case("amounts", "four hundred and twelve dollars and nine cents", "$412.09"),
    Case("numbers", "two million and one", "2000001"),
)


def is_held_out(domain: str, expected: str) -> bool:
    """Say whether a value belongs to the test part; an amount is held out in every currency."""
    value = expected.lstrip("".join(CURRENCIES))
    digest = hashlib.sha256(f"{HELD_OUT_SALT}:{domain}:{value}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


def cardinal(number: int, link: str = "and", article: bool = False) -> str:
    """Spell a number below a thousand millions; `article` starts it with "a" for "one"."""
    words: list[str] = []
    rest = number
    for scale, name in SCALES:
        if rest >= scale:
            words += [_below_thousand(rest // scale, link), name]
            rest %= scale
    if 0 < rest < 100 and words and link:
        words.append(link)
    if rest or not words:
        words.append(_below_thousand(rest, link))
    text = " ".join(words)
    starts_with_unit = text.startswith(("one hundred", "one thousand", "one million"))
    return "a" + text.removeprefix("one") if article and starts_with_unit else text


def _below_thousand(number: int, link: str) -> str:
    if number < 20:
        return SMALL[number]
    if number < 100:
        tens, units = divmod(number, 10)
        return f"{TENS[tens]} {SMALL[units]}" if units else TENS[tens]
    hundreds, rest = divmod(number, 100)
    words = [SMALL[hundreds], "hundred"]
    if rest:
        words += [link, _below_thousand(rest, link)] if link else [_below_thousand(rest, link)]
    return " ".join(words)


def ordinal(number: int) -> str:
    """Spell the day of a month: 1 to 31."""
    head, _, last = cardinal(number).rpartition(" ")
    return f"{head} {IRREGULAR_ORDINALS.get(last, last + 'th')}".strip()


def two_digits(number: int) -> str:
    """Spell minutes, cents or the end of a year as a pair: 5 is "oh five"."""
    return cardinal(number) if number >= 10 else f"oh {SMALL[number]}"


def year_words(year: int, rng: random.Random) -> str:
    """Spell a year in one of the ways people say it."""
    century, rest = divmod(year, 100)
    often_whole = year >= 2000 and (rest < 10 or rng.random() < 0.3)
    if often_whole and (rest == 0 or rng.random() < 0.7):
        return cardinal(year, link=rng.choice(("and", "")))
    if rest == 0:
        return f"{cardinal(century)} hundred"
    if century < 20 and rng.random() < 0.15:
        return f"{cardinal(century)} hundred and {cardinal(rest)}"
    return f"{cardinal(century)} {two_digits(rest)}"


def date_case(rng: random.Random) -> Case:
    """Draw a day between the first and the last year and say it."""
    first = datetime.date(FIRST_YEAR, 1, 1).toordinal()
    last = datetime.date(LAST_YEAR, 12, 31).toordinal()
    day = datetime.date.fromordinal(rng.randint(first, last))
    parts = {
        "day": ordinal(day.day),
        "month": MONTHS[day.month - 1],
        "year": year_words(day.year, rng),
        "weekday": WEEKDAYS[day.weekday()],
    }
    form = rng.choice((
        "the {day} of {month} {year}",
        "the {day} of {month} {year}",
        "on the {day} of {month} {year}",
        "{day} of {month} {year}",
        "{day} {month} {year}",
        "{month} {day} {year}",
        "{month} the {day} {year}",
        "{weekday} the {day} of {month} {year}",
        "{weekday} {month} {day} {year}",
        "the {day} day of {month} in the year {year}",
    ))  # fmt: skip
    return Case("dates", form.format(**parts), day.isoformat())


def day_parts(hour: int) -> list[str]:
    """List the words that tell a twelve-hour reading of this hour from the other one."""
    parts = ["a m", "in the morning"] if hour < 12 else ["p m"]
    if 12 <= hour <= 17:
        parts.append("in the afternoon")
    if 17 <= hour <= 21:
        parts.append("in the evening")
    if hour >= 21 or hour <= 3:
        parts.append("at night")
    return parts


def time_case(rng: random.Random) -> Case:
    """Draw a minute of the day and say it by the clock face, by its digits, or in 24 hours."""
    hour, minute = divmod(rng.randrange(24 * 60), 60)
    say = rng.choice((_clock_face, _clock_face, _twelve_hours, _twelve_hours, _twenty_four_hours))
    text = say(hour, minute, rng)
    return Case("times", f"at {text}" if rng.random() < 0.1 else text, f"{hour:02}:{minute:02}")


def _clock_face(hour: int, minute: int, rng: random.Random) -> str:
    spoken_hour, distance, side = hour, minute, rng.choice(("past", "past", "after"))
    if minute > 30:
        spoken_hour, distance = (hour + 1) % 24, 60 - minute
        side = rng.choice(("to", "to", "before"))
    part = rng.choice(day_parts(hour))
    name = f"{cardinal((spoken_hour - 1) % 12 + 1)} {part}"
    if spoken_hour in (0, 12) and (rng.random() < 0.5 or hour != spoken_hour):
        name = "noon" if spoken_hour else "midnight"
    if minute == 0:
        return name if name in ("noon", "midnight") else name.replace(" ", " o'clock ", 1)
    if distance == 15:
        return f"{rng.choice(('', 'a '))}quarter {side} {name}"
    if distance == 30:
        return f"half past {name}"
    unit = " minutes" if distance > 1 else " minute"
    return f"{cardinal(distance)}{unit if rng.random() < 0.2 else ''} {side} {name}"


def _twelve_hours(hour: int, minute: int, rng: random.Random) -> str:
    part = rng.choice(day_parts(hour))
    spoken_hour = cardinal((hour - 1) % 12 + 1)
    return f"{spoken_hour} {two_digits(minute)} {part}" if minute else f"{spoken_hour} {part}"


def _twenty_four_hours(hour: int, minute: int, rng: random.Random) -> str:
    zero = rng.choice(("oh", "zero"))
    spoken_hour = cardinal(hour) if hour >= 10 else f"{zero} {SMALL[hour]}"
    if minute == 0:
        return f"{spoken_hour} hundred hours"
    ending = "" if hour >= 13 and rng.random() < 0.5 else " hours"
    return f"{spoken_hour} {two_digits(minute)}{ending}"


def draw_number(rng: random.Random, longest: int) -> int:
    """Draw a number of 1 to `longest` digits; zeros, the hard part, come often."""
    length = rng.randint(1, longest)
    digits = [rng.choice("0123456789") for _ in range(length)]
    if rng.random() < 0.4:
        digits = [digit if rng.random() < 0.5 else "0" for digit in digits]
    digits[0] = rng.choice("123456789" if length > 1 else "0123456789")
    return int("".join(digits))


def speak(number: int, rng: random.Random) -> str:
    """Spell a number with a random choice of "and", of "a" for "one", and of hyphens."""
    if 1100 <= number < 10_000 and number // 100 % 10 and rng.random() < 0.15:
        hundreds, rest = divmod(number, 100)
        return f"{cardinal(hundreds)} hundred" + (f" and {cardinal(rest)}" if rest else "")
    text = cardinal(number, rng.choice(("and", "and", "")), article=rng.random() < 0.3)
    return hyphenated(text) if rng.random() < 0.15 else text


def hyphenated(text: str) -> str:
    """Write "twenty five" as "twenty-five"."""
    for tens in TENS[2:]:
        for units in SMALL[1:10]:
            text = text.replace(f"{tens} {units}", f"{tens}-{units}")
    return text


def amount_case(rng: random.Random) -> Case:
    """Draw a sum of money and say it with its unit, with or without the hundredths."""
    symbol = rng.choice(tuple(CURRENCIES))
    (many, one), (many_cents, one_cent) = CURRENCIES[symbol]
    units = draw_number(rng, 6)
    cents = 0 if rng.random() < 0.25 else rng.randrange(100)
    if rng.random() < 0.1:
        many = SLANG.get(symbol, many)
    number = speak(units, rng)
    unit = one if units == 1 else many
    cent = one_cent if cents == 1 else many_cents
    if cents == 0:
        text = f"{rng.choice(('', '', 'exactly '))}{number} {unit}"
    elif units == 0 or rng.random() < 0.1:
        # The cents of a euro and of a dollar sound alike; only a dollar is meant by them alone.
        units, symbol = 0, "$" if symbol == "€" else symbol
        text = f"{cardinal(cents)} {cent}"
    else:
        form = rng.choice(("{} {} and {} {}", "{} {} and {} {}", "{} {} {} {}", "{} {} {pair}"))
        text = form.format(number, unit, cardinal(cents), cent, pair=two_digits(cents))
    return Case("amounts", text, f"{symbol}{units}.{cents:02}")


def number_case(rng: random.Random) -> Case:
    """Draw a whole number, a decimal fraction or a negative one and say it."""
    is_decimal = rng.random() < 0.2
    number = draw_number(rng, 4 if is_decimal else 9)
    text, expected = speak(number, rng), str(number)
    if is_decimal:
        digits = [rng.randrange(10) for _ in range(rng.randint(1, 4))]
        text += " point " + " ".join(SMALL[digit] for digit in digits)
        expected += "." + "".join(map(str, digits))
    if rng.random() < 0.15 and expected.strip("0."):
        text, expected = f"{rng.choice(('minus', 'negative'))} {text}", f"-{expected}"
    return Case("numbers", text, expected)


DRAW: dict[str, Callable[[random.Random], Case]] = dict(
    zip(DOMAINS, (date_case, time_case, amount_case, number_case), strict=True)
)


def training_cases(seed: int) -> Iterator[Case]:
    """Yield cases of all domains for ever, none of them with a held-out value."""
    rng = random.Random(seed)
    while True:
        case = DRAW[rng.choice(DOMAINS)](rng)
        if not is_held_out(case.domain, case.expected):
            yield case


def held_out_cases(seed: int, per_domain: int) -> list[Case]:
    """Draw distinct cases with held-out values, domain by domain, the examples first."""
    rng = random.Random(seed)
    cases: list[Case] = []
    for domain, draw in DRAW.items():
        found = {case.text: case for case in EXAMPLES if case.domain == domain}
        while len(found) < per_domain:
            case = draw(rng)
            if is_held_out(domain, case.expected):
                found.setdefault(case.text, case)
        cases += found.values()
    return cases
