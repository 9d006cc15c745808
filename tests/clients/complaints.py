"""What users of other servers complain about, checked over HTTP. Needs no package.

With COUNTS=short (default), few requests are made, and nothing that is asserted depends on the speed of the machine.
COUNTS=full makes many, and also asserts limits of time and memory: run it by hand, with a release build, on a machine
that does nothing else. Some cases make servers of their own, with a tiny model.
"""

import complaints_answers  # noqa: F401: registers its cases
import complaints_cache  # noqa: F401
import complaints_flow  # noqa: F401
from harness import main

if __name__ == "__main__":
    main()
