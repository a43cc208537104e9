"""Use a backend of your own: the plugin in `plugin_template/`.

    pip install ./plugin_template        # all that registers a plugin
    unisep separate song.flac --backend splitter

Here a throw-away folder with the two lines that pip would write stands in for the installation.
"""

import sys
import tempfile
from pathlib import Path

from unisep import Separator

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
here = Path(__file__).parent

with tempfile.TemporaryDirectory() as site:
    metadata = Path(site) / "unisep_splitter-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: unisep-splitter\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[unisep]\nsplitter = unisep_splitter.plugin\n")
    sys.path[:0] = [site, str(here / "plugin_template")]

    bands = Separator("splitter", offline=True).separate(here / "audio" / "mixture.flac")

print(dict(bands))
print(bands.plan["low"].reason)
bands.save(out)
