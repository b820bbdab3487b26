"""Names that a user asks for, checked against those there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scgim._validation import listing, suggestion


def check_known(names: str | Iterable[str], available: Sequence[str], what: str) -> list[str]:
    """The requested names as a list, each of them known.

    Parameters
    ----------
    names
        One name or several.
    available
        All names there are.
    what
        What a name stands for, in the singular ("gene").

    Returns
    -------
    list of str
        The names in the order asked for, without repetitions.

    Raises
    ------
    ValueError
        If a name is unknown (with the closest known one), or none is given.

    Examples
    --------
    >>> from scgim.get._names import check_known
    >>> check_known("TP53", ["TP53", "MDM2"], "gene")
    ['TP53']
    """
    asked = list(dict.fromkeys([names] if isinstance(names, str) else [str(name) for name in names]))
    if not asked:
        raise ValueError(f"No {what} was given; known are {listing(available)}.")
    known = set(available)
    unknown = [name for name in asked if name not in known]
    if unknown:
        hint = suggestion(unknown[0], available)
        known_names = f"Known are {listing(available)}."
        if what == "gene":
            known_names = f"Modelled genes are {listing(available)}; pp.prepare takes others as genes=."
        raise ValueError(f"Unknown {what} {listing(unknown)}.{hint} {known_names}")
    return asked
