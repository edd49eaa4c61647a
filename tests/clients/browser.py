"""The headless Chromium of the web tests."""

import os

OPTIONS = dict(
    executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
    args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
          "--disable-background-networking"],
)
