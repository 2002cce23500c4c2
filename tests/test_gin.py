"""Plugins in gin files and bindings, as a run of `prompt-tuning train` meets them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from prompt_tuning_core import gin_config

# An engine that reads the configuration as every engine does, runs one configurable, and writes
# what it returned and the operative config.
ENGINE = """\
import gin, json, pathlib, sys
import app
from prompt_tuning_core import gin_config
from prompt_tuning_files import provenance

class Engine:
    def train(self, flags):
        parsed = gin_config.parse(flags, "fake")
        result = app.run()
        pathlib.Path("operative.gin").write_text(gin.operative_config_str())
        print(json.dumps({
            "result": result,
            "named": [plugin.name for plugin in parsed.plugins],
            "hooks": list(parsed.hooks),
            "recorded": [plugin["name"] for plugin in provenance.facts()["plugins"]],
            "modules": [m for m in sys.modules if m.startswith(("fake_", "prompt_tuning_init_"))],
        }))

    eval = infer = train
"""
APP = """\
import gin

@gin.configurable
def run(init, length=3):
    value = init(0, (length, 8))
    return value.tolist() if hasattr(value, "tolist") else value
"""
CONSTANT = """\
def constant(value=1, fallback=None):
    def initializer(rng, shape):
        return [value, shape[0]] + (fallback(rng, shape) if fallback else [])
    return initializer
"""


@pytest.fixture
def engine(site):
    site.distribution(
        "fake-engine",
        {"engines": {"fake": "the_engine:Engine"}},
        {"the_engine.py": ENGINE, "app.py": APP},
    )
    site.distribution(
        "fake-constant",
        {"initializers": {"init_a": "fake_a:constant", "init_b": "fake_b:constant"}},
        {"fake_a.py": CONSTANT, "fake_b.py": CONSTANT},
    )
    site.distribution(
        "fake-broken", {"initializers": {"init_broken": "fake_broken:f"}}, {"fake_broken.py": "1/0"}
    )
    return site


def train(site, *args):
    process = site.command("train", "--engine=fake", *args)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return json.loads(process.stdout.splitlines()[-1])


def refusal(site, *args):
    return site.error("train", "--engine=fake", *args)


DYNAMIC = """\
from __gin__ import dynamic_registration
import app
from prompt_tuning_core import plugins

PROMPT_LENGTH = 4
PROMPT_INIT = @main/plugins.init_a()
main/plugins.init_a:
    value = 'x'
plugins.init_a.fallback = @plugins.init_a()
nested/plugins.init_a.value = 7
app.run.init = %PROMPT_INIT
app.run.length = %PROMPT_LENGTH
"""
STATIC = """\
import app

PROMPT_LENGTH = 4
PROMPT_INIT = @main/init_a()
main/init_a:
    value = 'x'
    fallback = @nested/init_b()
nested/init_b.value = 7
run.init = %PROMPT_INIT
run.length = %PROMPT_LENGTH
"""


def test_static_file_names_plugins_bare(engine):
    engine.write("static.gin", STATIC)
    ran = train(engine, "--gin_file=static.gin")
    assert ran["result"] == ["x", 4, 7, 4]
    assert ran["named"] == ["init_a", "init_b"]


def test_dynamic_file_names_plugins_through_the_module(engine):
    engine.write(
        "dynamic.gin", DYNAMIC.replace("= @plugins.init_a()", "= @nested/plugins.init_b()")
    )
    engine.write("more.gin", "from __gin__ import dynamic_registration\n"
                 "import prompt_tuning_core.plugins\n"
                 "nested/prompt_tuning_core.plugins.init_b.value = 9\n")  # fmt: skip
    ran = train(engine, "--gin_file=dynamic.gin", "--gin_file=more.gin")
    assert ran["result"] == ["x", 4, 9, 4]
    assert ran["named"] == ["init_a", "init_b"]


@pytest.mark.parametrize("text", [STATIC, DYNAMIC.replace("@plugins.init_a()", "None")])
def test_operative_config_reads_back_to_identical_text(engine, text):
    engine.write("first.gin", text)
    first = train(engine, "--gin_file=first.gin", "--gin.PROMPT_LENGTH=6")
    written = engine.cwd.joinpath("operative.gin").read_text()
    assert "PROMPT_LENGTH = 6" in written
    engine.write("again.gin", written)
    again = train(engine, "--gin_file=again.gin")
    assert again["result"] == first["result"]
    assert engine.cwd.joinpath("operative.gin").read_text() == written


def test_only_plugins_named_are_imported(engine):
    engine.write("x.gin", "import app\nrun.init = @init_b()  # not init_a, nor plugins.init_a\n")
    ran = train(engine, "--gin_file=x.gin")
    assert ran["modules"] == ["fake_b"]
    assert ran["recorded"] == ["init_b", "fake"]


@pytest.mark.parametrize("prefix", ["", "plugins."])
def test_plugins_named_only_in_bindings_are_found(engine, prefix):
    engine.write("x.gin", "import app\n")
    ran = train(
        engine,
        "--gin_file=x.gin",
        f"--gin.run.init=@{prefix}init_a()",
        f"--gin.{prefix}init_a.value=5",
        f"--gin.{prefix}init_a.fallback=@some/scope/{prefix}init_b()",
        f"--gin.some/scope/{prefix}init_b.value=6",
    )
    assert ran["result"] == [5, 3, 6, 3]
    assert ran["named"] == ["init_a", "init_b"]


def test_a_parameter_of_an_initializer_that_is_not_used_is_refused(engine):
    engine.write("x.gin", "import app\n")
    line = engine.error(
        "train", "--engine=fake", "--gin_file=x.gin", "--gin.run.init=@init_a()",
        "--gin.init_b.value=6",
    )  # fmt: skip
    assert line == "--gin.init_b.value=6: no binding of this run uses @init_b()"


def test_an_import_that_would_run_a_blocked_plugin_is_refused(engine):
    engine.write("x.gin", "import app\nimport fake_a\n")
    line = engine.error(
        "train", "--engine=fake", "--gin_file=x.gin", "--block-plugin=fake-constant"
    )
    assert line.startswith("x.gin:2: this import would run initializer plugin 'init_a' of fake-con")
    assert "'fake-constant' is blocked" in line


def test_a_parameter_by_position_only_is_named(engine):
    source = "def make(a=1, /):\n    return lambda rng, shape: [a]\n"
    engine.distribution("p", {"initializers": {"init_p": "p:make"}}, {"p.py": source})
    engine.write("x.gin", "import app\nrun.init = @init_p()\ninit_p.a = 3\n")
    line = engine.error("train", "--engine=fake", "--gin_file=x.gin")
    assert line == "init_p takes a by position only, so gin cannot set init_p.a"


def test_bindings_reach_plugins_of_dynamic_files(engine):
    engine.write("x.gin", DYNAMIC.replace("@plugins.init_a()", "None"))
    assert train(engine, "--gin_file=x.gin", "--gin.main/plugins.init_a.value=1")["result"] == [
        1,
        4,
    ]
    assert train(engine, "--gin_file=x.gin", "--gin.main/init_a.value=2")["result"] == [2, 4]


def test_static_and_dynamic_files_mix_and_read_back(engine):
    engine.write("dynamic.gin", DYNAMIC.replace("@plugins.init_a()", "None"))
    engine.write("static.gin", "main/init_a.fallback = @init_b()\ninit_b.value = 'static'\n")
    ran = train(engine, "--gin_file=dynamic.gin", "--gin_file=static.gin")
    assert ran["result"] == ["x", 4, "static", 4]
    written = engine.cwd.joinpath("operative.gin").read_text()
    engine.write("again.gin", written)
    assert train(engine, "--gin_file=again.gin")["result"] == ran["result"]
    assert engine.cwd.joinpath("operative.gin").read_text() == written


def configs(site, engine, files, distribution="fake-configs"):
    """Installs gin files for an engine."""
    package = distribution.replace("-", "_")
    modules = {f"{package}/{name}": text for name, text in files.items()}
    site.distribution(
        distribution, {"configs": {engine: package}}, {f"{package}/__init__.py": "1/0", **modules}
    )
    return site.folder / package


def test_files_are_found_in_the_order_of_the_folders(engine):
    shared = configs(engine, "shared", {}, "a-shared")
    own = configs(engine, "fake", {})
    flags = ["--gin_file=part/x.gin", "--gin_search_paths=user", "--gin.run.init=@init_a()"]
    for number, place in enumerate((shared, own, engine.cwd, engine.cwd / "user")):
        (place / "part").mkdir(parents=True)
        (place / "part" / "x.gin").write_text(f"import app\nrun.length = {number}\n")
        assert train(engine, *flags)["result"] == [1, number]


def test_one_file_of_two_distributions_is_a_conflict_where_it_is_used(engine):
    files = {"part/x.gin": "import app\nrun.init = @init_a()\n", "y.gin": "import app\n"}
    for distribution in ("a-configs", "b-configs"):
        configs(engine, "fake", files, distribution)
    assert refusal(engine, "--gin_file=part/x.gin") == (
        "gin file 'part/x.gin' is in the distributions a-configs and b-configs; block one, for "
        "example with --block-plugin=b-configs:fake"
    )
    engine.write("x.gin", "\ninclude 'part/x.gin'\n")
    assert refusal(engine, "--gin_file=x.gin").startswith("x.gin:2: gin file 'part/x.gin' is in")
    # What is hidden is in nobody's way.
    engine.write("part/x.gin", files["part/x.gin"])
    assert train(engine, "--gin_file=part/x.gin")["result"] == [1, 3]
    (engine.cwd / "part" / "x.gin").unlink()
    blocked = ("--gin_file=part/x.gin", "--block-plugin=b-configs:fake")
    assert train(engine, *blocked)["result"] == [1, 3]


def test_a_file_of_another_engine_is_refused_with_the_engines_name(engine):
    folder = configs(engine, "other", {"runs/x.gin": "import app\n"}, "other-configs")
    assert refusal(engine, "--gin_file=runs/x.gin") == (
        "gin file 'runs/x.gin' not found; it belongs to the engine other (other-configs)"
    )
    for path in (folder / "runs" / "x.gin", "other_configs/runs/x.gin"):
        assert "belongs to the engine other (other-configs), and this is --engine fake" in refusal(
            engine, f"--gin_file={path}"
        )
    engine.write("x.gin", "include 'other_configs/runs/x.gin'\n")
    assert "belongs to the engine other (other-configs)" in refusal(engine, "--gin_file=x.gin")


def test_gin_files_whose_package_is_missing_are_told(engine):
    engine.distribution("gone", {"configs": {"fake": "no_such_package"}})
    engine.write("x.gin", "import app\nrun.init = @init_a()\n")
    assert "configs plugin 'fake' of gone 1.0 names 'no_such_package'" in refusal(
        engine, "--gin_file=x.gin"
    )


def test_a_file_is_named_by_its_package_too(engine):
    name = "prompt_tuning_configs/models/sizes/small.gin"
    flags = [f"--gin_file={name}", "--gin.run.init=@init_a()", "--gin.init_a.value=%EMBED_DIM"]
    engine.write("app.gin", "import app\n")
    flags.append("--gin_file=app.gin")
    configs(engine, "fake", {"models/sizes/small.gin": "EMBED_DIM = 'the engine'\n"})
    assert train(engine, *flags)["result"] == [512, 3]
    flags[0] = "--gin_file=models/sizes/small.gin"
    assert train(engine, *flags)["result"] == ["the engine", 3]
    flags[0] = f"--gin_file={name}"
    engine.write(name, "EMBED_DIM = 'on disk'\n")
    assert train(engine, *flags)["result"] == ["on disk", 3]


def test_includes_take_effect_where_they_stand_and_are_searched_alike(engine):
    engine.write(
        "x.gin",
        "from __gin__ import dynamic_registration\n"
        "import app\n"
        "from prompt_tuning_core import plugins\n"
        "A = 'before'\nB = 'before'\n"
        "include 'part.gin'  # with a comment\n"
        "B = 'after'\n"
        "include \\\n    'prompt_tuning_configs/models/sizes/small.gin'\n"
        "app.run.init = @plugins.init_a()\n"
        "plugins.init_a.value = [%A, %B, %C, %EMBED_DIM]\n",
    )
    own = {"part.gin": "A = 'part'\nB = 'part'\ninclude 'deeper/part.gin'\n"}
    configs(engine, "fake", own)
    shared = {"deeper/part.gin": "C = @init_b\ninit_b.value = 0\nC = 'deeper'\n"}
    configs(engine, "shared", shared, "a-shared")
    ran = train(engine, "--gin_file=x.gin")
    assert ran["result"] == [["part", "after", "deeper", 512], 3]
    assert ran["named"] == ["init_b", "init_a"]


HOOKS = """\
import gin
from prompt_tuning_core.hookspecs import hookimpl

@gin.configurable
def colour(name="red"):
    return name

@hookimpl
def run_finished():
    pass
"""


def test_hooks_are_loaded_before_gin_locks(engine):
    modules = {"fake_h.py": HOOKS, "fake_k.py": HOOKS.replace("colour", "shade")}
    engine.distribution("h", {"hooks": {"one": "fake_h", "two": "fake_k"}}, modules)
    engine.write("x.gin", "import app\nrun.init = @init_a()\nHOOKS = ['gone']\nHOOKS = ['two']\n")
    ran = train(engine, "--gin_file=x.gin", "--hooks=one,two", "--gin.colour.name='blue'")
    assert ran["hooks"] == ["two", "one"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # Plugins.
        ("import app\nX = @plugins.init_aa()", "x.gin:2: no initializer or prompt plugin named"),
        ("import app\nX = @plugins.init_aa()", "did you mean 'init_a'"),
        ("from __gin__ import dynamic_registration\nfrom prompt_tuning_core import plugins as p\n\n"
         "p.init_aa.value = 3", "x.gin:4: no initializer or prompt plugin named 'init_aa'"),
        ("X = [\n  1, @init_broken()]", "x.gin:1: initializer plugin 'init_broken' of fake-broken "
         "1.0 fails to import: ZeroDivisionError: division by zero"),
        ("import app\nrun.init = @init_aa()", "x.gin:2: 'init_aa' is neither a plugin"),
        ("import app\nrun.init = @init_aa()", "did you mean 'init_a'"),
        ("from __gin__ import dynamic_registration\nX = @init_a()", "x.gin:2: 'init_a' was not "
         "imported; in a file with dynamic_registration write plugins.init_a"),
        ("HOOKS = 'demo_table'", "x.gin:1: HOOKS is 'demo_table', and should be a list"),
        ("\nHOOKS = ['demo_tabel']", "x.gin:2: no hooks plugin named 'demo_tabel'"),
        # Parameters, macros, references.
        ("\ninit_a.valu = 3", "x.gin:2: 'init_a' has no parameter 'valu'; did you mean 'value'?"),
        ("init_a:\n  value = 1\n  valu = 3", "x.gin:3: 'init_a' has no parameter 'valu'"),
        ("from __gin__ import dynamic_registration\nfrom prompt_tuning_core import plugins\n"
         "plugins.init_a.valu = 3", "x.gin:3: 'plugins.init_a' has no parameter 'valu'; did you "
         "mean 'value'?"),
        ("plugins.of_class.lenght = 3", "has no parameter 'lenght'; did you mean 'length'?"),
        ("LENGTH = 3\ninit_a.value = [1, %LENGHT]", "x.gin:2: macro %LENGHT has no value"),
        ("LENGTH = 3\ninit_a.value = [1, %LENGHT]", "did you mean 'LENGTH'?"),
        ("nothing.x = 3", "x.gin:1: 'nothing' is neither a plugin nor registered with gin"),
        # Syntax and imports.
        ("A = 1\nB = word", "x.gin:2: word is no value; write text in quotes"),
        ("A = 1\nB 3", "x.gin:2: Couldn't parse statement, expected ':' or '=' in 'B 3'"),
        ("A = [1,\n", "x.gin:"),
        ("import no_such_module", "x.gin:1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("import fake_broken", "x.gin:1: ZeroDivisionError: division by zero"),
        # Includes.
        ("A = 1\ninclude 'no_such.gin'", "x.gin:2: gin file 'no_such.gin' not found; tried /"),
        ("include 'x.gin'", "gin file x.gin includes x.gin"),
        ("\ninclude 'part.gin'\n", "part.gin:2: 'init_a' has no parameter 'valu'"),
        # When a configurable is called.
        ("import app\nrun.length = 3", "gin gives run no value for init; write run.init = …"),
    ],
)  # fmt: skip
def test_bad_files_are_one_line_with_file_and_line(engine, lines, expected):
    engine.write("x.gin", lines + "\n")
    engine.write("part.gin", "A = 1\ninit_a.valu = 3\n")
    engine.distribution(
        "fake-prompt",
        {"prompts": {"of_class": "fake_prompt:Prompt"}},
        {"fake_prompt.py": "class Prompt:\n    def __init__(self, length): pass\n"},
    )
    assert expected in refusal(engine, "--gin_file=x.gin")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--gin_file=no/such.gin", "gin file 'no/such.gin' not found; tried "),
        ("--gin.X=@plugins.init_aa()", "--gin.X=@plugins.init_aa(): no initializer or prompt"),
        ("--gin.X=@init_broken()", "--gin.X=@init_broken(): initializer plugin 'init_broken' of"),
        ("--gin.init_a.valu=1", "--gin.init_a.valu=1: 'init_a' has no parameter 'valu'"),
        ("--gin.X=word", "--gin.X=word: word is no value"),
        (
            "--gin.LENGHT=1",
            "--gin.LENGHT=1: none of the gin files uses %LENGHT; did you mean 'LENGTH'?",
        ),
        ("--gin.X=[1", "--gin.X=[1: "),
        ("--hooks=none_such", "--hooks: no hooks plugin named 'none_such'"),
    ],
)
def test_bad_flags_are_one_line(engine, flag, expected):
    engine.write("x.gin", "import app\nLENGTH = 3\nrun.length = %LENGTH\n")
    message = refusal(engine, "--gin_file=x.gin", flag)
    assert message.startswith(expected)


def test_a_prompt_before_the_models_file_is_refused(engine):
    engine.write("model.gin", "MODEL = 1\nPROMPT = None\n")
    engine.write("prompt.gin", "\nPROMPT = 3\n")
    message = refusal(engine, "--gin_file=prompt.gin", "--gin_file=model.gin")
    assert message == (
        "prompt.gin:2 sets PROMPT, and model.gin:2, which comes after it, sets it to None; name "
        "the model's file before it"
    )


def test_a_file_of_comments_alone_changes_nothing(engine):
    engine.write("x.gin", STATIC)
    engine.write("comments.gin", "# Nothing.\n")
    assert train(engine, "--gin_file=x.gin", "--gin_file=comments.gin")


def test_a_byte_order_mark_is_no_part_of_the_first_line(engine):
    mark = "\N{ZERO WIDTH NO-BREAK SPACE}"
    engine.write("x.gin", f"{mark}include 'part.gin'\n")
    engine.write("part.gin", f"{mark}import app\nrun.init = @init_a()\ninit_a.value = %LENGTH\n")
    engine.write("y.gin", f"{mark}LENGTH = 2\n")
    ran = train(engine, "--gin_file=x.gin", "--gin_file=y.gin")
    assert ran["result"] == [2, 3]
    engine.write("bad.gin", f"{mark}LENGTH = \n")
    assert "bad.gin:1" in refusal(engine, "--gin_file=x.gin", "--gin_file=bad.gin")


def test_a_gin_file_that_is_a_pointer_of_git_lfs(engine):
    engine.write("x.gin", "version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 7\n")
    assert refusal(engine, "--gin_file=x.gin").startswith("gin file x.gin: a Git LFS pointer, not")


def test_file_not_found_lists_the_folders(engine):
    own = configs(engine, "fake", {})
    message = refusal(engine, "--gin_file=no.gin", "--gin_search_paths=user,other")
    folders = [engine.cwd / "user", engine.cwd / "other", engine.cwd, own]
    folders.append(gin_config.find_module("prompt_tuning_configs"))
    tried = [str(folder / "no.gin") for folder in folders]
    assert message == f"gin file 'no.gin' not found; tried {', '.join(tried)}"


def test_file_that_is_no_text_is_refused(engine):
    engine.cwd.joinpath("x.gin").write_bytes(b"\xff\xfe")
    assert "gin file x.gin cannot be read: UnicodeDecodeError" in refusal(
        engine, "--gin_file=x.gin"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("init_a", "512"),
        ("init_aa", "installed plugins: init_a, init_b, init_broken"),
        ("init_broken", "initializer plugin 'init_broken' of fake-broken 1.0 fails to import"),
    ],
)
def test_gin_alone_resolves_the_module_and_shows_our_messages(engine, name, expected):
    # As in `python -m t5x.train`, where nothing of ours runs before gin parses.
    folder = gin_config.find_module("prompt_tuning_configs")
    text = (
        "from __gin__ import dynamic_registration\n"
        "from prompt_tuning_core import plugins\n"
        "include 'models/sizes/small.gin'\n"
        f"X = @plugins.{name}()\n"
    )
    code = (
        f"import gin; gin.add_config_file_search_path({str(folder)!r})\n"
        f"gin.parse_config({text!r}); print(gin.query_parameter('%EMBED_DIM'))"
    )
    process = engine.python("-c", code)
    assert expected in process.stdout + process.stderr


FIRST_PARTY = """\
from __gin__ import dynamic_registration
import app
from prompt_tuning_files import embeddings
from prompt_tuning_core import plugins
import letters

app.run.init = @prompt_init/plugins.init_labels()
app.run.length = 5
prompt_init/plugins.init_labels:
  embeddings = @embeddings.np_load()
  vocab = @letters.Vocabulary()
  texts = %CLASS_LABELS
  initializer = @prompt_init/plugins.init_vocab()
prompt_init/plugins.init_vocab:
  embeddings = @embeddings.np_load()
  population_size = 10
embeddings.np_load.path = 'table.npy'
CLASS_LABELS = ['ab', 'c']
"""
LETTERS = """\
class Vocabulary:
    def encode(self, text):
        return [ord(letter) - ord("a") + 10 for letter in text]
"""


@pytest.mark.parametrize("static", [False, True])
def test_class_labels_with_sampled_vocabulary_as_fallback(engine, static):
    engine.folder.joinpath("letters.py").write_text(LETTERS)
    # gin calls an initializer with the key as it is: the engine's part is played here.
    engine.folder.joinpath("app.py").write_text(
        APP.replace("init(0,", "init(jax.random.key(0),").replace("import gin", "import gin, jax")
    )
    table = np.arange(40 * 8, dtype=np.float32).reshape(40, 8)
    np.save(engine.cwd / "table.npy", table)
    text = FIRST_PARTY
    if static:
        text = text.replace("from __gin__ import dynamic_registration\n", "")
        text = text.replace("import letters\n", "import register\n")
        for module in ("plugins.", "embeddings.", "letters.", "app."):
            text = text.replace(module, "")
        engine.folder.joinpath("register.py").write_text(
            "import gin, letters\nfrom prompt_tuning_files import embeddings\n"
            "gin.external_configurable(embeddings.np_load, module='embeddings')\n"
            "gin.external_configurable(letters.Vocabulary, module='letters')\n"
        )
    engine.write("x.gin", text)
    ran = train(engine, "--gin_file=x.gin")
    prompt = np.array(ran["result"], np.float32)
    np.testing.assert_allclose(prompt[0], (table[10] + table[11]) / 2)
    np.testing.assert_allclose(prompt[1], table[12])
    sampled = {row[0] for row in prompt[2:].tolist()}
    assert len(sampled) == 3
    assert sampled <= set(table[:10, 0].tolist())
    assert ran["named"] == ["init_labels", "init_vocab"]
    assert sorted(ran["modules"]) == ["prompt_tuning_init_labels", "prompt_tuning_init_vocab"]

    written = engine.cwd.joinpath("operative.gin").read_text()
    engine.write("again.gin", written)
    assert train(engine, "--gin_file=again.gin")["result"] == ran["result"]
    assert engine.cwd.joinpath("operative.gin").read_text() == written
