"""What a command line and its YAML files may say, and what they are told when they say it wrong."""

from pathlib import Path
from typing import Any

import pytest

from recalign.errors import InputError
from recalign.run.stage import parse_stage
from recalign.run.stage.settings import constructing, set_keys
from recalign.run.words import without_values


def parse(*words: str):
    return parse_stage(["fit", "--config", "toy.yaml", *words]).config


def complaint(*words: str) -> str:
    with pytest.raises(InputError) as caught:
        parse(*words)
    message = str(caught.value)
    assert "NoneType" not in message
    assert "Union" not in message
    assert len(message.splitlines()) <= 2
    return message


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def test_short_forms_and_a_log_without_class_path_override_the_stage():
    log = write("log.yaml", "data: {log: {name: other, files: [a.csv, b.csv]}, reward: stars}")
    config = parse("--config", log, "--model.learning_rate", "0.5", "--data.root", "somewhere")
    assert config["data"]["class_path"] == "stage_doubles.ToyData"
    assert config["data"]["init_args"]["log"]["files"] == ["a.csv", "b.csv"]
    assert config["data"]["init_args"]["reward"] == "stars"
    assert config["data"]["init_args"]["root"] == "somewhere"
    assert config["model"]["init_args"]["learning_rate"] == 0.5


@pytest.mark.parametrize(
    ("words", "length"),
    [
        ([], 8),
        (["--data.max_length", "5"], 5),
        (["--data.init_args.max_length=6"], 6),
        (["--config", "log.yaml"], 33),
        (["--config", "log.yaml", "--data.max_length", "7"], 7),
    ],
)
def test_an_interpolation_follows_overrides(words: list[str], length: int):
    write("log.yaml", "data: {max_length: 33}")
    config = parse(*words)
    assert config["data"]["init_args"]["max_length"] == length
    assert config["model"]["init_args"]["encoder"]["init_args"]["max_length"] == length


@pytest.mark.parametrize(
    "reward",
    [
        "least(play_time_ms / greatest(duration_ms, 1), 1.0)",
        "case when kind = 'a, b' then 1 else 0 end",
        "coalesce(a, 0) # b",
        "1",
        "{a}",
    ],
)
def test_sql_stays_as_it_is_typed(reward: str):
    assert parse("--data.reward", reward)["data"]["init_args"]["reward"] == reward
    write("log.yaml", f'data: {{reward: "{reward}"}}')
    assert parse("--config", "log.yaml")["data"]["init_args"]["reward"] == reward


def test_a_log_inherits_nothing_from_the_log_it_replaces():
    log = write("log.yaml", "data: {log: {name: other, files: [a.csv]}}")
    mapping = parse("--config", log)["data"]["init_args"]["log"]
    own = {"name": "other", "files": ["a.csv"], "user": "user", "time_unit": "s", "columns": {}}
    assert mapping == own | {"where": None, "time_resolution": None}


def test_a_class_given_anew_starts_from_its_own_defaults():
    log = write("log.yaml", "data: {split: {class_path: stage_doubles.LeaveLast, init_args: {test: 1}}}")
    assert parse("--config", log)["data"]["init_args"]["split"]["init_args"] == {"test": 1, "validation": 5}
    log = write("log.yaml", "data: {split: {class_path: stage_doubles.TimeSplit, init_args: {cuts: [0.5, 0.6]}}}")
    assert parse("--config", log)["data"]["init_args"]["split"]["init_args"] == {"cuts": [0.5, 0.6]}


def test_a_class_that_is_changed_hands_on_what_follows_from_other_settings():
    words = ("--data.max_length=5", "--model.encoder=stage_doubles.OtherMixer")
    assert parse(*words)["model"]["init_args"]["encoder"]["init_args"]["max_length"] == 5
    assert parse(*words, "--data.max_length=6")["model"]["init_args"]["encoder"]["init_args"]["max_length"] == 6


def test_a_variable_in_a_file_that_an_option_names_is_written_by_its_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SHOP", "corner")
    Path("shops").mkdir()
    write("shops/shop.yaml", "{name: '${oc.env:SHOP}', files: [u.data]}")
    write("shops/data.yaml", "data: {log: shop.yaml}  # not data.yaml")  # from its own folder
    for words in (["--data.log=shops/shop.yaml"], ["--config=shops/data.yaml"]):
        parsed = parse_stage(["fit", "--config", "toy.yaml", *words])
        assert parsed.config["data"]["init_args"]["log"]["name"] == "corner"
        assert parsed.shareable["data"]["init_args"]["log"]["name"] == "${oc.env:SHOP}"


def test_the_root_in_a_logs_file_is_relative_to_it(folder: Path):
    Path("shops").mkdir()
    write("shops/shop.yaml", "data: {root: raw, log: {name: shop, files: [a.csv]}}")
    for path in ("shops/shop.yaml", str(folder / "shops/shop.yaml")):
        assert parse("--config", path)["data"]["init_args"]["root"] == str(Path(path).with_name("raw"))
    assert parse("--config", "shops/shop.yaml", "--data.root", "raw")["data"]["init_args"]["root"] == "raw"


def test_numbers_are_written_down_as_they_are_where_a_variable_holds_the_same(monkeypatch: pytest.MonkeyPatch):
    """Else the configuration would say ``0.00${oc.env:EPOCHS}``, and repeat another run where the variable changes."""
    monkeypatch.setenv("EPOCHS", "1")
    words = ("--trainer.max_epochs=${oc.env:EPOCHS}", "--model.learning_rate=0.001", "--data.reward=a = 1")
    parsed = parse_stage(["fit", "--config", "toy.yaml", *words])
    assert parsed.config["trainer"]["max_epochs"] == 1
    assert parsed.shareable == parsed.config


def test_secrets_are_written_by_name_wherever_they_stand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOKEN", "s3cret-t0ken")
    monkeypatch.setenv("WHO", "model")
    said = {"model": ["model", "a model"], "shop": {"url": "https://me:s3cret-t0ken@shop"}}
    assert without_values(said, ["TOKEN", "WHO"]) == {
        "model": ["${oc.env:WHO}", "a model"],
        "shop": {"url": "https://me:${oc.env:TOKEN}@shop"},
    }


def test_a_mapping_sets_what_the_same_words_set():
    words = [
        "--model.learning_rate=0.5",
        "--data.log.user=who",
        "--data.split=TimeSplit",
        "--data.split.cuts=[0.5,0.6]",
    ]
    nested = {"model": {"learning_rate": 0.5}, "data": {"log": {"user": "who"}}}
    split = {"data.split": {"class_path": "TimeSplit", "init_args": {"cuts": [0.5, 0.6]}}}
    for settings in (nested | split, {"model.learning_rate": "0.5", "data.log.user": "who", **split}):
        stage = parse_stage(["fit", "--config", "toy.yaml"], settings)
        assert stage.config == parse(*words)
        assert parse_stage(stage.argv).config == stage.config  # the line that runs it alone


FILES = {
    "dims.yaml": "model: {init_args: {encoder: {init_args: {dims: 3}}}}",
    "tests.yaml": "data: {split: {class_path: stage_doubles.LeaveLast, init_args: {tests: 3}}}",
    "monitr.yaml": "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitr: x}}]}",
    "class.yaml": "model: {class_path: stage_doubles.OtherTy}",
    "named.yaml": "data: {log: ml-100k}",
    "partial.yaml": "data: {log: {files: [a]}}",
    "leave.yaml": "data: {split: LeavLast}",
    "high.yaml": "data: {high: stars > 4}",
    "usr.yaml": "data: {log: {name: toy, files: [a], usr: u}}",
}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--model.init_args.learningrate 3", "model.learning_rate?"),
        ("--dat.reward x", "data.reward?"),
        ("--learning_rate 1", "model.learning_rate?"),
        ("--model.learning_rat=3 --trainer.logger=false", "model.learning_rate?"),  # that is no class
        ("--config dims.yaml", "model.encoder.dim?"),
        ("--config tests.yaml", "data.split.test?"),
        ("--config monitr.yaml", "trainer.callbacks.monitor?"),
        ("--model stage_doubles.Toyy", "stage_doubles.Toy?"),
        ("--config class.yaml", "stage_doubles.OtherToy?"),
        ("--data.split LeavLast", "data.split: there is no class 'LeavLast'"),
        ("--model stage_doubles.ToyData", "stage_doubles.ToyData"),
        ("--trainer.precision bf16-mixd", "did you mean bf16-mixed?"),
        ("--data.split stage_doubles.TimeSplit --data.split.test 3", "data.split.cuts?"),
        ("--trainer.accelerator mps", "trainer.accelerator: must be auto or cpu or gpu"),
        ("--data.reward=[1,2]", "data.reward: must be str"),
        ("--data.root ${oc.env:NOT_SET}", "Environment variable 'NOT_SET' not found"),
        ("--config partial.yaml", "data.log.name must be given"),
        ("--config named.yaml", "named.yaml, data.log: must be a mapping, not 'ml-100k'\n  -> keys: name, files"),
        ("--config leave.yaml", "leave.yaml, data.split: there is no class 'LeavLast'\n  -> did you mean LeaveLast?"),
        (
            "--config high.yaml",
            "high.yaml, data.high: must be a mapping, not 'stars > 4'\n  -> keys: expression, quantile",
        ),
        ("--config usr.yaml", "usr.yaml: there is no key 'data.log.usr'\n  -> did you mean data.log.user?"),
    ],
)
def test_a_mistake_is_named_with_the_nearest_that_exists(words: str, says: str):
    for name, text in FILES.items():
        write(name, text)
    assert says in complaint(*words.split(" "))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], "--trainer.max_epochs"),
        (["--model.help", "stage_doubles.Toy"], "--model.learning_rate"),
        (["--model.learning_rate=0.5", "--config", "log.yaml", "--print_config"], "learning_rate: 0.5"),
        (["--config", "log.yaml", "--print_config"], "reward: stars"),
    ],
)
def test_options_that_print_exit_with_0(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    write("log.yaml", "data: {reward: stars}")
    with pytest.raises(SystemExit) as stop:
        parse(*words)
    assert stop.value.code == 0
    assert said in capsys.readouterr().out


def test_a_printed_configuration_is_the_same_configuration(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse("--model.learning_rate=0.5", "--print_config")
    write("printed.yaml", capsys.readouterr().out)
    assert parse_stage(["fit", "--config", "printed.yaml"]).config == parse("--model.learning_rate=0.5")


def test_keys_under_a_list_are_the_last_items():
    words = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=x", "--trainer.callbacks.patience=7"]
    (callback,) = parse(*words)["trainer"]["callbacks"]
    assert callback["class_path"] == "lightning.pytorch.callbacks.EarlyStopping"
    assert (callback["init_args"]["monitor"], callback["init_args"]["patience"]) == ("x", 7)


def test_null_settings_are_filled_from_their_source(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stage_doubles.Toy.MAX_EPOCHS", 4, raising=False)
    words = ["--seed_everything=3", "--data.seed=null", "--trainer.max_epochs=null"]
    config = parse(*words)
    assert (config["data"]["init_args"]["seed"], config["trainer"]["max_epochs"]) == (3, 4)
    assert parse(*words, "--trainer.max_steps=7")["trainer"]["max_epochs"] is None
    assert (config["trainer"]["devices"], config["trainer"]["enable_model_summary"]) == (1, False)


def test_null_takes_away_what_a_log_says():
    said = ["--data.log.where=item > 3", "--data.log.time_resolution=60"]
    assert (log_of(*said)["where"], log_of(*said)["time_resolution"]) == ("item > 3", 60)
    log = log_of(*said, "--data.log.where=null", "--data.log.time_resolution=null")
    assert (log["where"], log["time_resolution"]) == (None, None)


def log_of(*words: str) -> dict[str, Any]:
    return parse(*words)["data"]["init_args"]["log"]


def test_errors_of_constructors_have_a_remedy():
    of_every_type = ValueError("jsonargparse names every type that it tried")
    of_every_type.__cause__ = ValueError("power must not be negative, not -1")
    with pytest.raises(InputError) as refused, constructing():
        raise of_every_type
    assert refused.value.what == "power must not be negative, not -1"
    assert "--help" in str(refused.value.remedy)


def test_a_constructors_own_message_is_kept_whatever_it_came_from():
    of_every_type = ValueError("jsonargparse names every type that it tried")
    of_every_type.__cause__ = own = InputError("cannot be read", where="codes.parquet", remedy="make it again")
    own.__cause__ = OSError("parquet: File out of specification")
    with pytest.raises(InputError, match=r"codes.parquet: cannot be read"), constructing():
        raise of_every_type


def test_keys_that_settings_set_are_counted_inside_classes_too():
    given = {"data.split": "{class_path: X, init_args: {n: 1}}", "data.reward": "{a}", "model.encoder": {"dim": 3}}
    expected = {"data.split": "X", "data.split.n": 1, "data.reward": "{a}", "model.encoder.dim": 3}
    assert set_keys(given) == expected
