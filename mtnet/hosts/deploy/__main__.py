"""``python -m mtnet.hosts.deploy``; the SDK takes the arguments ``-i``, ``-o`` and ``-m`` itself."""

import sys

from mtnet.hosts.deploy.app import application

if __name__ == "__main__":
    try:
        made = application()
    except ImportError as error:
        sys.exit(str(error))
    made().run()
