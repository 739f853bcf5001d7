"""Wild input, for tests that hold for every text."""

from hypothesis import settings
from hypothesis import strategies as st

quick = settings(max_examples=40, deadline=None, database=None)
"""Few examples, since there are many tests; no deadline, since the machine may be busy."""

text = st.text(max_size=200)
with_surrogates = st.text(st.characters(), max_size=50)
"""Text as `os.fsdecode` can make it: it cannot be encoded."""
nasty = st.text("ab/.-@{~^:?*[\\ <>&|`!\x00\n\r\x7f\u202eü", max_size=40)
"""Text of the characters that something gives a meaning to."""
shas = st.text("0123456789abcdef", min_size=40, max_size=40)
branches = st.from_regex(r"[a-zü][a-zü0-9_]{0,9}(/[a-z][a-z0-9]{0,5})?", fullmatch=True).filter(
    lambda name: not name.endswith(".lock")
)
