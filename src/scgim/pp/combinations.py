"""Combinations: which labels name several perturbations, and which merely have the separator in their name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from .._logging import logger
from .._validation import listing, plural

#: Separators that are common inside names ("HLA_A", "HLA-A"): nothing but known names speaks for a combination.
_IN_NAMES = "_-.:/ "


def split_label(label: str, separator: str | None) -> list[str]:
    """The pieces of a label, wherever the separator stands.

    A separator inside brackets or at an end belongs to the name: `(+)-JQ1` and `CD4+` are one perturbation
    each.

    Examples
    --------
    >>> from scgim.pp.combinations import split_label
    >>> split_label("KLF1+MAP2K6", "+"), split_label("(+)-JQ1", "+")
    (['KLF1', 'MAP2K6'], ['(+)-JQ1'])
    """
    if not separator or separator not in label:
        return [label]
    pieces, depth, start, i = [], 0, 0, 0
    while i < len(label):
        if label[i] in "([{":
            depth += 1
        elif label[i] in ")]}":
            depth = max(0, depth - 1)
        if depth == 0 and label.startswith(separator, i):
            pieces.append(label[start:i].strip())
            i = start = i + len(separator)
        else:
            i += 1
    pieces.append(label[start:].strip())
    return pieces if all(pieces) else [label]


def control_names(controls: Iterable[str], separator: str | None) -> set[str]:
    """What names the control: its labels, and the `NT` of `NT+NT`."""
    names = set(controls)
    for control in controls:
        pieces = set(split_label(control, separator))
        names |= pieces if len(pieces) == 1 else set()
    return names


def split_name(name: str, separator: str | None, known: Iterable[str]) -> list[str]:
    """The perturbations in a name that is asked for, in the light of those that are known.

    Examples
    --------
    >>> from scgim.pp.combinations import split_name
    >>> split_name("HLA_A_KLF1", "_", {"HLA_A", "KLF1"}), split_name("Mg2+ chelator", "+", {"A"})
    (['HLA_A', 'KLF1'], ['Mg2+ chelator'])
    """
    names = set(known)
    pieces = split_label(name, separator)
    if name in names or len(pieces) == 1:
        return [name]
    if names.issuperset(pieces):
        return pieces
    joined = _join(pieces, str(separator), _spelled(names, str(separator)))
    return joined or (pieces if _is_clean(name, pieces, str(separator)) else [name])


def read_combinations(
    labels: Iterable[str], separator: str | None, controls: set[str], named: Iterable[str] = ()
) -> dict[str, list[str]]:
    """The perturbations of each label of a column, by the rule that `prepare` documents; warns of what is not sure.

    Parameters
    ----------
    labels
        The different labels.
    separator
        `combination_sep`.
    controls
        What names the control.
    named
        Perturbations that are known from elsewhere.

    Examples
    --------
    >>> from scgim.pp.combinations import read_combinations
    >>> read_combinations(["A", "B", "B+A", "Na+/K+ inhibitor"], "+", {"control"})
    {'A': ['A'], 'B': ['B'], 'B+A': ['B', 'A'], 'Na+/K+ inhibitor': ['Na+/K+ inhibitor']}
    """
    read = {label: [label] if label in controls else split_label(label, separator) for label in labels}
    several = {label: pieces for label, pieces in read.items() if len(pieces) > 1}
    if not several or separator is None:
        return read
    single = {label for label in read if label not in several} | set(named)
    for pieces in several.values():  # "A+control" is A alone
        rest = set(pieces) - controls
        single |= rest if len(rest) == 1 else set()
    found = _decide(several, separator, single | controls)
    whole = [label for label in several if label not in found]
    unsure = sorted({piece for label in found for piece in found[label]} - single - controls - set(whole))
    if unsure:
        example = next(label for label, pieces in sorted(found.items()) if unsure[0] in pieces)
        logger.warning(
            "combination_sep=%r: %s never alone: %s (%r is in %r). Where such a label is one name, rename it; "
            "combination_sep=None takes every label as one.",
            separator,
            f"{plural(len(unsure), 'perturbation')} occur{'s' * (len(unsure) == 1)}",
            listing(unsure),
            unsure[0],
            example,
        )
    if whole:
        logger.warning(
            "combination_sep=%r: %s taken as one perturbation each, since nothing tells that their parts are "
            "perturbations. If no label is a combination, pass combination_sep=None. If these are, write '||' between "
            "their parts and pass combination_sep='||': a separator of several characters always separates.",
            separator,
            listing(sorted(whole)),
        )
    return {label: found.get(label, [label]) if label in several else read[label] for label in read}


def _decide(several: Mapping[str, list[str]], separator: str, known: set[str]) -> dict[str, list[str]]:
    """The labels that are combinations, with their pieces."""
    if len(separator) > 1:
        return dict(several)
    found = {label: pieces for label, pieces in several.items() if known.issuperset(pieces)}
    in_names = separator in _IN_NAMES
    if in_names:  # "HLA_A" is a name where "HLA_A_KLF1" and "KLF1" occur
        whole = set()
        spelled = _spelled(known | several.keys(), separator)
        for label in sorted(several.keys() - found.keys()):
            joined = _join(several[label], separator, spelled)
            if joined:
                found[label] = joined
                whole |= set(joined) - found.keys()
        several = {label: pieces for label, pieces in several.items() if label not in whole}
    left = {label: p for label, p in several.items() if label not in found and _is_clean(label, p, separator)}
    seen = Counter(piece for pieces in left.values() for piece in set(pieces))
    known = known | ({piece for piece, n in seen.items() if n > 1} if not in_names else set())
    while True:
        more = {label: pieces for label, pieces in left.items() if label not in found and known.intersection(pieces)}
        if not more:
            break
        found |= more
        known = known | {piece for pieces in more.values() for piece in pieces}
    rest = {label: pieces for label, pieces in left.items() if label not in found}
    # Where most labels with the separator are combinations, it means the same in the others.
    return found | (rest if len(found) > len(several) - len(found) and not in_names else {})


def _spelled(names: Iterable[str], separator: str) -> dict[str, str]:
    """Each name by its pieces, without the blanks around separators."""
    return {separator.join(split_label(name, separator)): name for name in names}


def _join(pieces: list[str], separator: str, spelled: Mapping[str, str]) -> list[str]:
    """The pieces put together to two or more known names, the longest first; empty where that cannot be."""

    def rest(start: int) -> list[str] | None:
        if start == len(pieces):
            return []
        for end in range(len(pieces), start, -1):
            name = separator.join(pieces[start:end])
            after = rest(end) if name in spelled and end - start < len(pieces) else None
            if after is not None:
                return [spelled[name], *after]
        return None

    return rest(0) or []


def _is_clean(label: str, pieces: list[str], separator: str) -> bool:
    """Whether the separator stands between things that look like names: not so in `Mg2+ chelator`, `Na+/K+ channel`."""
    if separator == "+" and any(label[i + 1 : i + 2] == " " != label[i - 1] for i, c in enumerate(label) if c == "+"):
        return False
    return all((p[0].isalnum() or p[0] in "([{") and (p[-1].isalnum() or p[-1] in ")]}'*") for p in pieces)
