"""The one exception that is the user's to mend: `cli` prints it as a line, without a traceback."""


class UserError(Exception):
    """Something in a config, a file or a flag is wrong, and the message says what to do about it.

    Args:
        *lines: One finding a line, each saying where, what came, what was expected, and the
            nearest right thing. All that can be found at once are told at once.
    """

    def __init__(self, *lines: str):
        super().__init__("\n".join(lines))
        self.lines = lines


def nearest(word: str, words: "list[str] | tuple[str, ...]") -> str:
    """` Did you mean `x`?` for the closest of `words`, or nothing when none is close."""
    import difflib

    matches = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" Did you mean `{matches[0]}`?" if matches else ""
