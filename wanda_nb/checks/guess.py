"""A prediction beside its measurement."""


def compare(guess, measured, unit: str = "") -> None:
    """Print what was guessed beside what was measured, and by which factor a number is off.

    guess: a number, a word, or None for no guess. measured: of the same kind. Raises TypeError for a number in place of
    a word, or the other way round. Introduced in notebook 00, "How good is each?".
    """

    def told(value) -> str:
        return f"{value:,.4g}{unit}" if isinstance(value, (int, float)) else str(value)

    if guess is None:
        return print("measured:", told(measured), "· no guess")
    if isinstance(guess, str) != isinstance(measured, str):
        expected = "a word" if isinstance(measured, str) else "a number"
        raise TypeError(f"guess={guess!r}: expected {expected}, since what is measured is {told(measured)}.")
    off = ""
    if not isinstance(measured, str) and guess > 0 and measured > 0:
        factor = max(guess / measured, measured / guess)
        off = f" · off by a factor of {factor:.3g}"
    print(f"you guessed: {told(guess)} · measured: {told(measured)}{off}")
