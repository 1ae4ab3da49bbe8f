"""``python -m mtnet`` is the ``mtnet`` command."""

import sys

from mtnet.cli.main import main

sys.exit(main())
