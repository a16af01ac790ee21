"""The loop never loses, repeats or bends a sample, and learns nothing from broken numbers."""

import errno
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch

from fportrait.errors import UserError
from fportrait.training.checkpoints import best_checkpoint, checkpoint_to_resume, damage, saved_checkpoints
from fportrait.training.loop import train
from fportrait.training.losses import prepare, sample_losses, to_device
from fportrait.training.stages import batches_of
from helpers.small import Journal, same_weights, shards, stage, transformer


def checkpoint_root(folder: Path) -> Path:
    return next((folder / "checkpoints").iterdir())


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums over two threads round differently from sums over one; child processes here use one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def straight(reader, tmp_path_factory):
    """An uninterrupted run: its journal and final model."""
    journal, model = Journal(), transformer()
    train(stage(), model, reader, tmp_path_factory.mktemp("straight"), journal)
    return journal, model


def test_a_run_logs_what_a_trainer_watches_and_saves_its_model(reader, tmp_path):
    journal, model = Journal(), transformer()
    before = transformer()
    summary = train(stage(), model, reader, tmp_path, journal)
    assert summary["steps"] == 8
    assert journal[0][1]["tokens_per_step"] == 4 * 3 * 16
    watched = {
        "loss",
        "grad_norm",
        "learning_rate",
        "seconds_per_step",
        "data_wait_fraction",
        "loss_ViewSweep",
        "mfu",
        "tokens_per_second",
        "memory_mib",
    }
    assert watched <= set(journal[-1][1])
    assert any(name.startswith("loss_sigma_") for name in journal[-1][1])
    assert not same_weights(model, before)
    assert same_weights(type(model).from_pretrained(tmp_path / "transformer"), model)
    assert "_name_or_path" not in json.loads((tmp_path / "transformer/config.json").read_text())
    assert json.loads((tmp_path / "training.json").read_text())["vae_hash"] == "vae0"


def test_the_loss_falls_when_a_few_records_are_repeated(reader, tmp_path):
    journal = Journal()
    # ema 0 and no dropout: the plainest run that must learn.
    train(
        stage(iterations=150, learning_rate=3e-3, ema=0.0, dropout=0.0, checkpoint_every=1000),
        transformer(),
        reader,
        tmp_path,
        journal,
    )
    losses = list(journal.losses.values())
    assert sum(losses[-20:]) < 0.85 * sum(losses[:20])


@pytest.mark.parametrize("crash_after", [1, 4, 7])
def test_a_crashed_run_goes_on_bit_for_bit(reader, straight, tmp_path, crash_after):
    with pytest.raises(KeyboardInterrupt):
        train(stage(), transformer(), reader, tmp_path, Journal(crash_after))
    journal, model = Journal(), transformer()
    summary = train(stage(), model, reader, tmp_path, journal)
    assert summary["resumed_from"] == crash_after // 3 * 3
    assert journal.losses == straight[0].losses  # of the steps before the stop as well
    assert same_weights(model, straight[1])


def test_sigterm_saves_and_exits_and_the_next_run_goes_on(reader, straight, tmp_path):
    def terminate(metrics, step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        train(stage(), transformer(), reader, tmp_path, terminate)
    assert stopped.value.code == 143
    model = transformer()
    assert train(stage(), model, reader, tmp_path, Journal())["resumed_from"] == 5
    assert same_weights(model, straight[1])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_accumulated_parts_give_the_losses_of_the_whole_batch(reader, straight, tmp_path):
    journal = Journal()
    train(stage(accumulation=2), transformer(), reader, tmp_path, journal)
    assert list(journal.losses.values()) == pytest.approx(list(straight[0].losses.values()), rel=1e-5)


def test_a_damaged_checkpoint_is_passed_over_and_named(reader, straight, tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        train(stage(), transformer(), reader, tmp_path, Journal(7))
    newest = saved_checkpoints(checkpoint_root(tmp_path))[-1]
    data = bytearray((newest / "optimizer.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (newest / "optimizer.safetensors").write_bytes(bytes(data))
    model = transformer()
    assert train(stage(), model, reader, tmp_path, Journal())["resumed_from"] == 3
    assert "step-00000006 is damaged (optimizer.safetensors" in caplog.text
    assert same_weights(model, straight[1])


def test_checkpoints_without_manifest_or_with_missing_files_are_damaged(tmp_path):
    broken = tmp_path / "run-a/step-00000001"
    broken.mkdir(parents=True)
    assert "manifest" in damage(broken)
    (broken / "manifest.json").write_text('{"weights.safetensors": "0"}')
    assert "missing" in damage(broken)
    assert checkpoint_to_resume(tmp_path, "run", stage()) is None


def test_only_the_last_checkpoints_are_kept(reader, tmp_path):
    train(stage(checkpoint_every=1, keep_checkpoints=3), transformer(), reader, tmp_path, Journal())
    assert [path.name for path in saved_checkpoints(checkpoint_root(tmp_path))] == [f"step-{n:08d}" for n in (6, 7, 8)]


def test_the_best_checkpoint_is_kept_beside_the_last_ones(reader, tmp_path):
    """Without held-out people a checkpoint's score is its training loss."""
    # the rate is so high that the loss only grows: the first checkpoint stays the best
    journal = Journal()
    train(
        stage(checkpoint_every=2, keep_checkpoints=1, learning_rate=0.3, warmup=0),
        transformer(),
        reader,
        tmp_path,
        journal,
    )
    losses = journal.losses
    means = {step: (losses[step - 1] + losses[step]) / 2 for step in (2, 4, 6, 8)}
    best = min(means, key=means.get)
    assert best != 8
    kept = saved_checkpoints(checkpoint_root(tmp_path))
    assert [path.name for path in kept] == [f"step-{n:08d}" for n in (best, 8)]
    assert best_checkpoint(checkpoint_root(tmp_path)) == kept[0]


def test_checkpoints_are_scored_on_held_out_people_with_the_same_noise(tmp_path):
    reader = shards(tmp_path / "shards", splits=("train", "train", "test"))
    scores = []
    for accumulation in (1, 2):
        journal = Journal()
        train(
            stage(held_out=6, accumulation=accumulation), transformer(), reader, tmp_path / str(accumulation), journal
        )
        scores.append({step: metrics["held_out_loss"] for step, metrics in journal if "held_out_loss" in metrics})
    assert scores[0].keys() == {3, 6, 8}
    assert list(scores[0].values()) == pytest.approx(list(scores[1].values()), rel=1e-5)
    assert len(set(scores[0].values())) == 3


def test_eight_bit_moments_train_and_resume_bit_for_bit(reader, tmp_path):
    pytest.importorskip("bitsandbytes")
    settings = {"optimizer": "adamw8bit", "precision": "fp32"}
    straight, resumed = Journal(), Journal()
    model, again = transformer(), transformer()
    train(stage(**settings), model, reader, tmp_path / "a", straight)
    with pytest.raises(KeyboardInterrupt):
        train(stage(**settings), transformer(), reader, tmp_path / "b", Journal(7))
    assert train(stage(**settings), again, reader, tmp_path / "b", resumed)["resumed_from"] == 6
    assert resumed.losses == straight.losses
    assert same_weights(model, again)


def test_eight_bit_moments_without_their_package_are_refused(reader, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match="pip install"):
        train(stage(optimizer="adamw8bit"), transformer(), reader, tmp_path, Journal())


def test_recomputed_activations_change_no_loss(reader, straight, tmp_path):
    journal = Journal()
    train(stage(gradient_checkpointing=True), transformer(), reader, tmp_path, journal)
    assert journal.losses == straight[0].losses


def test_a_full_disk_during_a_save_leaves_the_old_checkpoint(reader, tmp_path, monkeypatch):
    from fportrait.training import checkpoints

    real = checkpoints.write_safetensors

    def full(target, tensors, metadata=None):
        if Path(target).name == "optimizer.safetensors" and any((tmp_path / "checkpoints").glob("*/step-*")):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(target, tensors, metadata)

    monkeypatch.setattr(checkpoints, "write_safetensors", full)
    with pytest.raises(UserError, match="full disk"):
        train(stage(), transformer(), reader, tmp_path, Journal())
    kept = saved_checkpoints(checkpoint_root(tmp_path))
    assert [path.name for path in kept] == ["step-00000003"]
    assert damage(kept[0]) is None
    assert [path.name for path in checkpoint_root(tmp_path).iterdir()] == ["step-00000003"]


def test_a_disk_too_small_for_the_checkpoints_is_told_before_the_first_step(reader, tmp_path, monkeypatch):
    free = {"bytes": 0}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free["bytes"]))
    seen = Journal()
    with pytest.raises(UserError, match=r"0\.00 GiB free .* lower keep_checkpoints"):
        train(stage(), transformer(), reader, tmp_path, seen)
    assert not seen.losses and not (tmp_path / "checkpoints").exists()
    learned = sum(value.numel() for value in transformer().parameters())
    free["bytes"] = learned * 16 * 3  # 8 steps, a save every third: three checkpoints in all
    assert train(stage(), transformer(), reader, tmp_path, Journal())["steps"] == 8
    free["bytes"] = 0  # what lies there already needs no more room
    assert train(stage(), transformer(), reader, tmp_path, Journal())["resumed_from"] == 8


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_samples(tmp_path):
    def spoil(dataset, identity, entry, name):
        if dataset == "ViewSweep" and identity == 1 and entry[0] == "r1":
            entry[3]["codes"] = entry[3]["codes"] + 3e38  # finite in the shard, infinite in the model

    reader = shards(tmp_path / "shards", spoil=spoil)
    model = transformer()
    seen = []
    with pytest.raises(UserError, match="ViewSweep/p1/r1") as caught:
        train(
            stage(iterations=50, batch_size=2, dropout=0.0, checkpoint_every=1),
            model,
            reader,
            tmp_path / "out",
            lambda metrics, step: seen.append(step),
        )
    assert "no weight was changed" in str(caught.value)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    from safetensors.torch import load_file

    newest = saved_checkpoints(checkpoint_root(tmp_path / "out"))
    if newest:
        weights = load_file(newest[-1] / "weights.safetensors")
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights.items())


def test_other_settings_never_resume_these_checkpoints(reader, tmp_path):
    train(stage(), transformer(), reader, tmp_path, Journal())
    assert train(stage(learning_rate=5e-4), transformer(), reader, tmp_path, Journal())["resumed_from"] == 0
    assert train(stage(), transformer(seed=1), reader, tmp_path, Journal())["resumed_from"] == 0
    assert train(stage(iterations=10), transformer(), reader, tmp_path, Journal())["resumed_from"] == 8


def told(journal: Journal) -> list:
    """What a journal holds of the training itself, without times and memory."""
    names = ("loss", "held_out_loss", "grad_norm", "learning_rate")
    rows = [(step, {key: metrics[key] for key in names if key in metrics}) for step, metrics in journal]
    return [row for row in rows if row[1]]


def run(reader, folder: Path, **changes):
    """Summary, journal and model of one run; runs in the same folder find each other's checkpoints."""
    journal, model = Journal(), transformer()
    out = folder / f"out{len(list(folder.glob('out*')))}"
    summary = train(stage(**changes), model, reader, out, journal, checkpoint_folder=folder / "checkpoints")
    written = json.loads((out / "training.json").read_text())
    assert written["steps"] == written["stage"]["iterations"] == summary["steps"] == changes.get("iterations", 8)
    assert same_weights(model.from_pretrained(out / "transformer"), model)
    assert journal[-1][0] == summary["steps"]
    return summary, journal, model


def test_a_shorter_run_after_a_longer_one_is_trained_to_its_own_length(tmp_path):
    reader = shards(tmp_path / "shards", splits=("train", "train", "test"))
    every = {"log_every": 2, "checkpoint_every": 2, "keep_checkpoints": 9}
    alone = {n: run(reader, tmp_path / f"alone{n}", iterations=n, **every) for n in (5, 8)}
    for number, iterations in enumerate((8, 5, 8, 5)):
        summary, journal, model = run(reader, tmp_path / "together", iterations=iterations, **every)
        expected, its_journal, its_model = alone[iterations]
        assert summary["resumed_from"] == (0, 4, 8, 5)[number]
        assert summary["final_loss"] == expected["final_loss"]
        assert same_weights(model, its_model) and told(journal) == told(its_journal)


def test_a_longer_run_goes_on_from_a_shorter_one_and_tells_what_it_would_have_told_alone(reader, straight, tmp_path):
    run(reader, tmp_path, iterations=5, log_every=2)
    summary, journal, model = run(reader, tmp_path, log_every=2)
    assert summary["resumed_from"] == 5 and same_weights(model, straight[1])
    assert told(journal) == told(run(reader, tmp_path / "alone", log_every=2)[1])


def test_what_is_trained_already_says_so_and_gives_its_loss(reader, tmp_path, caplog):
    first = run(reader, tmp_path)
    with caplog.at_level("INFO"):
        again = run(reader, tmp_path)
    assert "already trained: 8 steps" in caplog.text and "resumes" not in caplog.text
    (kept,) = (tmp_path / "checkpoints").glob("**/step-00000008/state.json")
    spent = json.loads(kept.read_text())["meter"]["spent"]["seconds"]  # when the last step was kept
    assert min(first[0]["seconds"], again[0]["seconds"]) > spent > 0
    assert again[0]["final_loss"] == first[0]["final_loss"]
    assert again[1].losses == first[1].losses and same_weights(again[2], first[2])


def test_runs_whose_rate_falls_share_only_the_steps_before_it_falls(reader, tmp_path):
    falling = {"decay_from": 0.5, "checkpoint_every": 1, "keep_checkpoints": 9}
    run(reader, tmp_path, iterations=12, **falling)
    summary, _, model = run(reader, tmp_path, iterations=8, **falling)
    assert summary["resumed_from"] == 5  # at step 5 (from 0) the shorter run's rate is the first below the other's
    assert same_weights(model, run(reader, tmp_path / "alone", iterations=8, **falling)[2])
    assert run(reader, tmp_path, iterations=8, checkpoint_every=1)[0]["resumed_from"] == 7  # of 12


def test_an_adapter_is_learned_alone_kept_alone_and_resumed_bit_for_bit(tmp_path):
    from safetensors.torch import load_file

    from fportrait.diffusion.lora import load_lora

    reader = shards(tmp_path / "shards", splits=("train", "train", "test"))
    settings = stage(lora={"rank": 2, "alpha": 4, "conditions": False}, checkpoint_every=3)
    journal, model, base = Journal(), transformer(), transformer()
    summary = train(settings, model, reader, tmp_path / "a", journal)
    assert 0 < summary["parameters"] == journal[0][1]["parameters"] < sum(p.numel() for p in base.parameters()) / 3
    kept = saved_checkpoints(checkpoint_root(tmp_path / "a"))[-1]
    for name in ("weights", "ema"):
        assert all("lora_" in key for key in load_file(kept / f"{name}.safetensors"))

    with pytest.raises(KeyboardInterrupt):
        train(settings, transformer(), reader, tmp_path / "b", Journal(7))
    resumed, again = Journal(), transformer()
    assert train(settings, again, reader, tmp_path / "b", resumed)["resumed_from"] == 6
    assert told(resumed) == told(journal) and same_weights(model, again)

    # Three ways to the same model: as it was trained, merged on the disk, and the adapter on its base.
    merged, beside = base.from_pretrained(tmp_path / "a/transformer").eval(), transformer().eval()
    load_lora(beside, tmp_path / "a/adapter")
    batch = to_device(prepare(batches_of(settings, base, reader)([0, 1]), [0, 1], settings), torch.device("cpu"))
    with torch.no_grad():
        losses = [sample_losses(one, batch, "fp32") for one in (model, merged, beside, base.eval())]
    torch.testing.assert_close(losses[0], losses[2], atol=0, rtol=0)
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(losses[0], losses[3], rtol=1e-3)
    adapted = json.loads((tmp_path / "a/training.json").read_text())["adapted"]
    assert adapted == json.loads((tmp_path / "a/adapter/adapter.json").read_text())["base"]
    assert train(stage(), transformer(), reader, tmp_path / "b", Journal())["resumed_from"] == 0


def test_another_architecture_with_the_same_weights_resumes_nothing(reader, tmp_path):
    train(stage(iterations=1), transformer(), reader, tmp_path, Journal())
    other = transformer()
    other.register_to_config(rope_max_seq_len=512)
    assert train(stage(iterations=2), other, reader, tmp_path, Journal())["resumed_from"] == 0


def test_bf16_trains_and_focus_and_contrast_change_the_loss(reader, straight, tmp_path):
    journal = Journal()
    train(stage(precision="bf16", iterations=2), transformer(), reader, tmp_path / "a", journal)
    assert journal.losses[1] == pytest.approx(straight[0].losses[1], rel=0.02)
    weighted = Journal()
    train(stage(focus_gain=4.0, iterations=1), transformer(), reader, tmp_path / "b", weighted)
    assert weighted.losses[1] != straight[0].losses[1]
    contrasted = Journal()
    train(stage(contrast=3.0, iterations=1), transformer(), reader, tmp_path / "c", contrasted)
    assert straight[0].losses[1] < contrasted.losses[1] < 3 * straight[0].losses[1]


def test_a_batch_that_does_not_divide_is_refused(reader, tmp_path):
    with pytest.raises(UserError, match="multiple of 3"):
        train(stage(accumulation=3), transformer(), reader, tmp_path, Journal())


def test_the_loop_runs_in_a_thread_where_no_signal_handler_can_be_set(reader, tmp_path):
    done = []
    thread = threading.Thread(
        target=lambda: done.append(train(stage(iterations=1), transformer(), reader, tmp_path, Journal()))
    )
    thread.start()
    thread.join()
    assert done[0]["steps"] == 1
