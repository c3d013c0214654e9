"""The filters, maps and reductions of the starter world. Data only; grammar.py says how to read it."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.starter.grammar import CHAR, NUMBER, WORD, Part, named

_SMALL = tuple(range(2, 10))
_WIDE = tuple(range(2, 16))
_MODULI = tuple(range(3, 10))

FILTERS: Mapping[str, Part] = named(
    [
        Part("all", (NUMBER, CHAR, WORD), "", ("{items}",)),
        Part("even", (NUMBER,), "{v} ⟦f1|%⟧ ⟦f2|2⟧ ⟦f3|==⟧ 0", ("even {items}",)),
        Part("odd", (NUMBER,), "{v} ⟦f1|%⟧ ⟦f2|2⟧ ⟦f3|!=⟧ 0", ("odd {items}",)),
        Part(
            "positive",
            (NUMBER,),
            "{v} ⟦f1|>⟧ ⟦f2|0⟧",
            ("positive {items}", "{items} above zero"),
            signed_only=True,
        ),
        Part(
            "negative",
            (NUMBER,),
            "{v} ⟦f1|<⟧ ⟦f2|0⟧",
            ("negative {items}", "{items} below zero"),
            signed_only=True,
        ),
        Part(
            "above",
            (NUMBER,),
            "{v} ⟦f1|>⟧ ⟦f2|{k}⟧",
            ("{items} greater than {k}", "{items} above {k}"),
            _SMALL,
        ),
        Part(
            "below", (NUMBER,), "{v} ⟦f1|<⟧ ⟦f2|{k}⟧", ("{items} less than {k}", "{items} below {k}"), _SMALL
        ),
        Part(
            "divisible",
            (NUMBER,),
            "{v} ⟦f1|%⟧ ⟦f2|{k}⟧ ⟦f3|==⟧ 0",
            ("{items} divisible by {k}", "{items} that are multiples of {k}"),
            _MODULI,
        ),
        Part(
            "indivisible",
            (NUMBER,),
            "{v} ⟦f1|%⟧ ⟦f2|{k}⟧ ⟦f3|!=⟧ 0",
            ("{items} not divisible by {k}",),
            _MODULI,
        ),
        Part("vowel", (CHAR,), '{v} in ⟦f1|"aeiou"⟧', ("vowels",)),
        Part("other", (CHAR,), '{v} ⟦f1|not⟧ in ⟦f2|"aeiou"⟧', ("{items} that are not vowels",)),
        Part("digit", (CHAR,), "{v}.⟦f1|isdigit⟧()", ("digits", "{items} that are digits")),
        Part("letter", (CHAR,), "{v}.⟦f1|isalpha⟧()", ("letters", "{items} that are letters")),
        Part("capital", (CHAR,), "{v}.⟦f1|isupper⟧()", ("uppercase {items}",)),
        Part("small", (CHAR,), "{v}.⟦f1|islower⟧()", ("lowercase {items}",)),
        Part("longer", (WORD,), "len({v}) ⟦f1|>⟧ ⟦f2|{k}⟧", ("{items} longer than {k}",), tuple(range(2, 6))),
        Part(
            "shorter", (WORD,), "len({v}) ⟦f1|<⟧ ⟦f2|{k}⟧", ("{items} shorter than {k}",), tuple(range(5, 9))
        ),
    ]
)

MAPS: Mapping[str, Part] = named(
    [
        Part("all", (NUMBER, CHAR, WORD), "{v}", ("",)),
        Part("square", (NUMBER,), "{v} ⟦m1|**⟧ ⟦m2|2⟧", (", each squared", " after squaring each")),
        Part("cube", (NUMBER,), "{v} ⟦m1|**⟧ ⟦m2|3⟧", (", each cubed", " after cubing each")),
        Part(
            "times",
            (NUMBER,),
            "{v} ⟦m1|*⟧ ⟦m2|{k}⟧",
            (", each multiplied by {k}", " after multiplying each by {k}"),
            _SMALL,
        ),
        Part(
            "plus",
            (NUMBER,),
            "{v} ⟦m1|+⟧ ⟦m2|{k}⟧",
            (", each increased by {k}", " after adding {k} to each"),
            _WIDE,
        ),
        Part(
            "minus",
            (NUMBER,),
            "{v} ⟦m1|-⟧ ⟦m2|{k}⟧",
            (", each decreased by {k}", " after subtracting {k} from each"),
            _WIDE,
        ),
        Part("absolute", (NUMBER,), "⟦m1|abs⟧({v})", (", each as an absolute value",), signed_only=True),
        Part(
            "modulo",
            (NUMBER,),
            "{v} ⟦m1|%⟧ ⟦m2|{k}⟧",
            (", each modulo {k}", " after taking each modulo {k}"),
            _MODULI,
        ),
        Part(
            "quotient",
            (NUMBER,),
            "{v} ⟦m1|//⟧ ⟦m2|{k}⟧",
            (", each divided by {k} without remainder",),
            tuple(range(2, 6)),
        ),
        Part("upper", (CHAR, WORD), "{v}.⟦m1|upper⟧()", (", in uppercase", ", each in uppercase")),
        Part("lower", (CHAR, WORD), "{v}.⟦m1|lower⟧()", (", in lowercase", ", each in lowercase")),
        Part(
            "repeat", (CHAR, WORD), "{v} ⟦m1|*⟧ ⟦m2|{k}⟧", (", each repeated {k} times",), tuple(range(2, 6))
        ),
        Part("backwards", (WORD,), "{v}⟦m1|[::-1]⟧", (", each reversed", ", each written backwards")),
        Part(
            "length",
            (WORD,),
            "⟦m1|len⟧({v})",
            (", each as its length", " after taking the length of each"),
            gives=NUMBER,
        ),
    ]
)

_LIST = ("    result = []\n    {loop}\n{if}{pad}result.append({m})\n    return ", "")
_ANY = (NUMBER, CHAR, WORD)

REDUCTIONS: Mapping[str, Part] = named(
    [
        Part(
            "sum",
            (NUMBER,),
            "    ⟦r|total⟧ = 0\n    {loop}\n{if}{pad}⟦r|total⟧ ⟦r|+=⟧ {m}\n    return ⟦r|total⟧",
            ("find the sum of the {items} {place}", "add up the {items} {place}"),
        ),
        Part(
            "product",
            (NUMBER,),
            "    ⟦r|product⟧ = 1\n    {loop}\n{if}{pad}⟦r|product⟧ ⟦r|*=⟧ {m}\n    return ⟦r|product⟧",
            ("find the product of the {items} {place}", "multiply together the {items} {place}"),
        ),
        Part(
            "count",
            _ANY,
            "    ⟦r|count⟧ = 0\n    {loop}\n{if}{pad}⟦r|count⟧ += 1\n    return ⟦r|count⟧",
            ("count the {items} {place}", "find how many {items} there are {place}"),
        ),
        Part(
            "max",
            (NUMBER,),
            _LIST[0] + "⟦r|max⟧(result)",
            ("find the largest of the {items} {place}", "find the maximum of the {items} {place}"),
        ),
        Part(
            "min",
            (NUMBER,),
            _LIST[0] + "⟦r|min⟧(result)",
            ("find the smallest of the {items} {place}", "find the minimum of the {items} {place}"),
        ),
        Part(
            "list",
            _ANY,
            _LIST[0]
            .replace("result = []", "⟦r|result⟧ = []")
            .replace("result.append", "⟦r|result⟧.⟦r|append⟧")
            + "⟦r|result⟧",
            ("list the {items} {place}", "collect the {items} {place} in a list"),
        ),
        Part(
            "sorted",
            _ANY,
            _LIST[0] + "⟦r|sorted⟧(result)",
            ("sort the {items} {place}", "list the {items} {place} in ascending order"),
        ),
        Part(
            "descending",
            _ANY,
            _LIST[0] + "sorted(result, ⟦r|reverse=True⟧)",
            (
                "sort the {items} {place} in descending order",
                "list the {items} {place} from largest to smallest",
            ),
        ),
        Part(
            "distinct",
            _ANY,
            _LIST[0] + "len(⟦r|set⟧(result))",
            ("count the distinct {items} {place}", "find how many different {items} there are {place}"),
        ),
        Part(
            "join", (CHAR, WORD), _LIST[0] + '"-".⟦r|join⟧(result)', ("join the {items} {place} with dashes",)
        ),
    ]
)
