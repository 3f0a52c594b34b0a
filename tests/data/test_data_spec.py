"""The query parser that all sources share."""

import re
import subprocess
import sys

import pytest

import fusionscope.data
from fusionscope.data._spec import NpzOptions, ScenesOptions, parse_spec
from fusionscope.errors import InputError


def test_values_are_typed_and_defaults_kept():
    source, path, options = parse_spec("scenes?train=7&night=1&holes=.25")
    assert (source, path) == ("scenes", "")
    assert options == ScenesOptions(train=7, night=1.0, holes=0.25)
    assert type(options.train) is int
    assert type(options.night) is float


def test_a_path_keeps_its_colons_and_question_marks():
    source, path, options = parse_spec("npz:C:/a b/what?.npz?inputs=rgb:NHWC,d:NHW&ignore=255")
    assert (source, path) == ("npz", "C:/a b/what?.npz")
    assert options == NpzOptions(inputs="rgb:NHWC,d:NHW", ignore=255)
    assert parse_spec("npz:a.npz?target=.x")[2] == NpzOptions(target=".x")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scene?train=3", "unknown data source 'scene' in 'scene?train=3'. Did you mean 'scenes'?"),
        ("", "unknown data source ''"),
        ("scenes?trian=3", "'scenes' has no option 'trian'. Did you mean 'train'? Its options are train, val"),
        ("digits?night=0.3", "'digits' has no option 'night'. Its options are val, test"),
        ("npz:a.npz?input=a:NC", "Did you mean 'inputs'?"),
        ("scenes?train=many", "option train=many of data source 'scenes': Expected `int`, got `str`"),
        ("scenes?train=0", "option train=0 of data source 'scenes': Expected `int` >= 1"),
        ("scenes?train=2.5", "option train=2.5 of data source 'scenes'"),
        ("scenes?night=1.5", "option night=1.5 of data source 'scenes': Expected `float` <= 1"),
        ("scenes?night=nan", "option night=nan of data source 'scenes'"),
        ("scenes?night", "cannot read 'night'"),
        ("scenes?night=", "cannot read 'night='"),
        ("scenes?val=3&val=5", "option 'val' is given twice"),
        ("scenes:file", "data source 'scenes' reads no file"),
        ("npz", "names no file"),
        ("npz?inputs=a:NC", "names no file"),
    ],
)
def test_bad_specs_say_what_is_wrong(spec, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parse_spec(spec)


def test_exports_are_lazy_and_complete():
    code = (
        "import sys, fusionscope.data, fusionscope.data._spec; assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert sorted(fusionscope.data.__all__) == dir(fusionscope.data)
    for name in fusionscope.data.__all__:
        assert getattr(fusionscope.data, name) is not None
