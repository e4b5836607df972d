"""Give a fork its own address: in badges, set-up cells, links, pyproject.toml and the package.

python notebooks/fork.py https://github.com/YOU/YOUR-FORK
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ADDRESS = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)")


def main(address: str, root: Path = ROOT) -> int:
    """Rewrite all files of the repository that name the old address; the exit status."""
    old = ADDRESS.search(
        re.search(r"^Repository = .*$", (root / "pyproject.toml").read_text(encoding="utf-8"), re.M)[0]
    )
    new = ADDRESS.fullmatch(address.rstrip("/").removesuffix(".git"))
    if new is None:
        print(f"{address}: expected https://github.com/OWNER/NAME, from where Colab opens notebooks.", file=sys.stderr)
        return 2
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    changed = 0
    for path in (root / name for name in names.split("\0") if name):
        before = path.read_bytes()
        after = re.sub(rb"\b" + re.escape(old[1].encode()) + rb"(?![\w-])", new[1].encode(), before)
        if after != before:
            path.write_bytes(after)
            changed += 1
    print(f"{old[1]} is now {new[1]}, in {changed} files. Look at them with `git diff`, then commit.")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) == 2 else __doc__)
