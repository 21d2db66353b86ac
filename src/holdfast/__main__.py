"""``python -m holdfast`` and ``accelerate launch -m holdfast``."""

import sys

from holdfast.cli import main

sys.exit(main())
