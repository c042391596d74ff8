"""The data are the official ones, damage is noticed, and batches are what they claim to be."""

import gzip
import hashlib
import importlib.util
import lzma
import math
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from scipy import stats

from companion import data
from companion.data import Batches, DataError, files, threshold

PACKED = resources.files("companion") / "_data" / files.PACKED
TOOL = Path(__file__).resolve().parents[1] / "tools" / "pack_mnist.py"


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def official():
    return files.unpack(PACKED)


@pytest.fixture
def forgetful():
    """Loaders that have read nothing yet, before and after the test."""
    for loader in (files._mnist, files._fashion_mnist):
        loader.cache_clear()
    yield
    for loader in (files._mnist, files._fashion_mnist):
        loader.cache_clear()


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("pack_mnist", TOOL)
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


# --- MNIST ----------------------------------------------------------------------------------


def test_the_packed_files_are_the_official_ones(official):
    assert list(official) == list(files.MNIST)
    for name, content in official.items():
        assert len(content) == files.FILES[name]
        assert digest(content) == files.MNIST[name]


def test_mnist_has_the_known_counts():
    sets = data.mnist()
    labels = [
        [4932, 5678, 4968, 5101, 4859, 4506, 4951, 5175, 4842, 4988],
        [991, 1064, 990, 1030, 983, 915, 967, 1090, 1009, 961],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    ]
    greys = [1_309_089_051, 258_209_494, 264_923_200]
    sizes = [50_000, 10_000, 10_000]
    for split, size, counts, grey in zip(sets, sizes, labels, greys, strict=True):
        assert split.images.shape == (size, 28, 28)
        assert split.images.dtype == torch.uint8
        assert split.labels.shape == (size,)
        assert split.labels.dtype == torch.int64
        assert split.labels.bincount().tolist() == counts
        assert split.images.sum() == grey
    both = torch.cat([sets.train.images, sets.validation.images])
    mean, std = both.double().mean() / 255, both.double().std() / 255
    assert (round(mean.item(), 4), round(std.item(), 4)) == (0.1307, 0.3081)  # as widely quoted


def test_validation_is_the_last_training_images_in_order(official):
    sets = data.mnist()
    images = sets.train.images, sets.validation.images
    stored = official["train-images-idx3-ubyte"][16:]
    assert b"".join(split.numpy().tobytes() for split in images) == stored
    labels = torch.cat([sets.train.labels, sets.validation.labels])
    assert labels.byte().numpy().tobytes() == official["train-labels-idx1-ubyte"][8:]
    assert sets.test.images.numpy().tobytes() == official["t10k-images-idx3-ubyte"][16:]


def test_splits_are_disjoint():
    train, validation, test = (
        {image.tobytes() for image in split.images.numpy()} for split in data.mnist()
    )
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_one_caller_cannot_change_the_data_of_another():
    mine, yours = data.mnist(), data.mnist()
    mine.test.images.zero_()
    mine.train.labels.zero_()
    assert yours.test.images.sum() == data.mnist().test.images.sum() == 264_923_200
    assert yours.train.labels.sum() == data.mnist().train.labels.sum() > 0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-1], r"is truncated: 9,186,647 of 9,186,648 bytes\. Reinstall"),
        (lambda content: b"", r"is truncated: 0 of 9,186,648 bytes\. Reinstall the package"),
        (lambda content: content[:-9] + b"\0" + content[-8:], r"is altered: .*SHA-256.* Reinstall"),
        (lambda content: content + b"\0", r"is altered: .* restore the file with git\."),
        (None, r"cannot be read \(No such file or directory\)\. Reinstall the package"),
    ],
)
def test_damage_to_the_packed_file_is_noticed(tmp_path, monkeypatch, forgetful, damage, reason):
    monkeypatch.setattr(files.resources, "files", lambda package: tmp_path)
    (tmp_path / "_data").mkdir()
    if damage:
        (tmp_path / "_data" / files.PACKED).write_bytes(damage(PACKED.read_bytes()))
    with pytest.raises(DataError, match=rf"mnist\.tar\.xz {reason}"):
        data.mnist()


def test_an_unknown_name_is_refused_and_a_known_one_loads():
    with pytest.raises(DataError, match=r'called \'mnits\': .* "mnist" and "fashion-mnist"'):
        data.load("mnits")
    assert torch.equal(data.load("mnist").test.images, data.mnist().test.images)


# --- the packing tool -----------------------------------------------------------------------


def archive(folder, path):
    with tarfile.open(path, "w:gz", compresslevel=1) as file:
        file.add(folder, "package/data")
    return path


def test_packing_gives_the_same_bytes_again(tool, official):
    packed = PACKED.read_bytes()
    small = [name for name in official if name != "train-images-idx3-ubyte"]  # it takes a minute
    again = tool.pack({name: official[name] for name in small})
    assert packed.endswith(again), "packed otherwise than in the package: has liblzma changed?"
    first = lzma.LZMADecompressor()  # what precedes is one stream, of the large file and a header
    member = first.decompress(packed[: -len(again)])
    assert first.eof
    assert not first.unused_data
    assert official["train-images-idx3-ubyte"] in member


def test_the_tool_reads_folders_and_archives(tool, official, tmp_path):
    plain, mixed = tmp_path / "plain", tmp_path / "mixed"
    for folder in (plain, mixed):
        folder.mkdir()
    for name, content in official.items():
        (plain / name).write_bytes(content)
        if "labels" in name:
            (mixed / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (mixed / name).symlink_to(plain / name)
    for source in (plain, mixed, archive(plain, tmp_path / "package.tgz")):
        assert tool.read(source) == official


def test_the_tool_writes_what_the_package_reads(tool, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(files, "MNIST", {name: digest(tiny[name]) for name in tiny})
    source, output = tmp_path / "source", tmp_path / "new" / "mnist.tar.xz"
    source.mkdir()
    for name, content in tiny.items():
        (source / name).write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["pack_mnist.py", str(source), "--output", str(output)])

    with pytest.raises(SystemExit, match="contents are right: this version of liblzma"):
        tool.main()
    assert not output.parent.exists()

    packed = tool.pack(tiny)
    monkeypatch.setattr(files, "PACKED_SIZE", len(packed))
    monkeypatch.setattr(files, "PACKED_SHA256", digest(packed))
    tool.main()
    assert list(output.parent.iterdir()) == [output]
    assert files.unpack(output) == tiny
    with tarfile.open(output) as file:  # as `tar xf` reads it
        assert file.getnames() == list(tiny)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-5]), r"truncated: 13 of 18 bytes"),
        (lambda file: file.write_bytes(bytes(18)), "altered"),
        (lambda file: file.unlink(), None),
    ],
)
def test_the_tool_refuses_damaged_sources(tool, tmp_path, tiny, monkeypatch, spoil, reason):
    monkeypatch.setattr(files, "MNIST", {name: digest(tiny[name]) for name in tiny})
    source = tmp_path / "source"
    source.mkdir()
    for name, content in tiny.items():
        (source / name).write_bytes(content)
    spoil(source / "t10k-labels-idx1-ubyte")
    with pytest.raises(DataError, match=rf"t10k-labels.* {reason or 'cannot be read'}.* Get the"):
        tool.read(source)
    with pytest.raises(DataError, match=reason or "holds no file t10k-labels-idx1-ubyte. Get the"):
        tool.read(archive(source, tmp_path / "source.tgz"))
    (tmp_path / "no.tgz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"no\.tgz cannot be read as an archive"):
        tool.read(tmp_path / "no.tgz")


# --- Fashion-MNIST --------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch):
    """Files in the official format of 60 training and 10 test images, taken for official."""
    rng = np.random.default_rng(0)
    made = {}
    for name in files.FILES:
        count = 60 if name.startswith("train") else 10
        shape = (count, 28, 28) if "images" in name else (count,)
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
        made[name] = header + rng.integers(0, 10, shape, dtype=np.uint8).tobytes()
    monkeypatch.setattr(files, "FILES", {name: len(made[name]) for name in made})
    return made


@pytest.fixture
def fashion(tiny, monkeypatch, tmp_path, forgetful):
    """The tiny files as Fashion-MNIST; no folder, an empty cache, no network."""
    monkeypatch.setattr(files, "FASHION_MNIST", {name: digest(tiny[name]) for name in tiny})
    monkeypatch.setattr(files, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FASHION_MNIST", raising=False)

    def unreachable(url, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    return tiny


@pytest.fixture
def cached(tmp_path):
    return tmp_path / "cache" / "generative-models-line-by-line" / "fashion-mnist"


def store(folder, files, ending=".gz"):
    folder.mkdir(parents=True)
    for name, content in files.items():
        zipped = gzip.compress(content) if ending else content
        (folder / (name + ending)).write_bytes(zipped)


def assert_loaded(sets, files):
    assert sets.train.images.numpy().tobytes() == files["train-images-idx3-ubyte"][16:]
    assert sets.train.labels.byte().numpy().tobytes() == files["train-labels-idx1-ubyte"][8:]
    assert sets.test.images.numpy().tobytes() == files["t10k-images-idx3-ubyte"][16:]
    assert sets.test.labels.byte().numpy().tobytes() == files["t10k-labels-idx1-ubyte"][8:]


@pytest.fixture
def mirror(fashion, monkeypatch):
    """A server on this machine, as the only mirror; what it answers may be changed."""
    answers = {f"/{name}.gz": gzip.compress(content) for name, content in fashion.items()}
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            answer = answers.get(self.path.removeprefix("/old"))
            if callable(answer):
                answer = answer()
            self.send_response(200 if answer is not None else 404)
            self.end_headers()
            self.wfile.write(answer or b"")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *args: None  # a client that gave up
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    monkeypatch.setattr(urllib.request, "urlopen", direct)
    monkeypatch.setattr(files, "MIRRORS", (f"http://127.0.0.1:{server.server_port}/",))
    yield answers, asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_fashion_mnist_from_the_folder_that_the_variable_names(
    fashion, tmp_path, monkeypatch, ending
):
    store(tmp_path / "mine", fashion, ending)
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path / "mine"))
    assert_loaded(data.fashion_mnist(), fashion)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("download", [True, False])
def test_fashion_mnist_from_debians_folder(fashion, tmp_path, monkeypatch, download):
    store(tmp_path / "debian", fashion)
    monkeypatch.setattr(files, "DEBIAN", tmp_path / "debian")
    assert_loaded(data.fashion_mnist(download), fashion)


DAMAGE = {
    "truncated: its gzip stream has no end": lambda zipped: zipped[:-9],
    "altered: no valid gzip": lambda zipped: b"<html>" + zipped,
    "altered: its SHA-256": lambda zipped: gzip.compress(gzip.decompress(zipped)[::-1]),
    r"truncated: 13 of 18 bytes": lambda zipped: gzip.compress(gzip.decompress(zipped)[:-5]),
}


@pytest.mark.parametrize("reason", [*DAMAGE, "cannot be read"])
@pytest.mark.parametrize("place", ["variable", "debian"])
def test_a_bad_folder_is_refused(fashion, tmp_path, monkeypatch, reason, place):
    folder = tmp_path / "mine"
    store(folder, fashion)
    file = folder / "t10k-labels-idx1-ubyte.gz"
    if reason in DAMAGE:
        file.write_bytes(DAMAGE[reason](file.read_bytes()))
    else:
        file.unlink()
    if place == "variable":
        monkeypatch.setenv("FASHION_MNIST", str(folder))
        remedy = "Let the variable FASHION_MNIST name a folder of the four official files"
    else:
        monkeypatch.setattr(files, "DEBIAN", folder)
        remedy = "Run `apt-get install --reinstall dataset-fashion-mnist`"
    with pytest.raises(DataError, match=rf"t10k-labels-idx1-ubyte.* {reason}.*\. {remedy}"):
        data.fashion_mnist()


def test_fashion_mnist_is_downloaded_once(fashion, mirror, cached):
    assert_loaded(data.fashion_mnist(), fashion)
    assert {file.name for file in cached.iterdir()} == {f"{name}.gz" for name in fashion}
    files._fashion_mnist.cache_clear()
    assert_loaded(data.fashion_mnist(download=False), fashion)
    assert len(mirror[1]) == 4


def test_a_second_mirror_is_asked_when_the_first_fails(fashion, mirror, monkeypatch):
    _, asked = mirror
    (address,) = files.MIRRORS
    monkeypatch.setattr(files, "MIRRORS", (f"{address}moved/", f"{address}old/"))
    assert_loaded(data.fashion_mnist(), fashion)
    assert {path.split("/")[1] for path in asked} == {"moved", "old"}


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_bad_download_is_refused_and_not_kept(fashion, mirror, cached, reason):
    answers, _ = mirror
    bad = "/t10k-labels-idx1-ubyte.gz"
    answers[bad] = DAMAGE[reason](answers[bad])
    with pytest.raises(DataError, match=rf"not be downloaded\. http.*{bad} is {reason}.* Run"):
        data.fashion_mnist()
    left = {f"/{file.name}" for file in cached.iterdir()}
    assert left == set(answers) - {bad}  # those fetched before it, whole


def test_a_silent_server_is_given_up(fashion, mirror, monkeypatch, cached):
    answers, _ = mirror
    release = threading.Event()
    answers["/train-images-idx3-ubyte.gz"] = lambda: release.wait(10) and None
    monkeypatch.setattr(files, "TIMEOUT", 0.1)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"could not be downloaded\. http.*timed out\. Run"):
        data.fashion_mnist()
    assert time.monotonic() - start < 5
    release.set()
    assert not cached.exists()


def test_no_network_is_said_with_what_to_do(fashion, tmp_path):
    with pytest.raises(DataError) as caught:
        data.fashion_mnist()
    text = str(caught.value)
    assert text.startswith("Fashion-MNIST could not be downloaded. https://")
    assert text.count("no route to host") == len(files.MIRRORS) == 2
    assert "Run `apt-get install dataset-fashion-mnist`, or let the variable FASHION_MNIST" in text
    assert not (tmp_path / "cache").exists()


def test_nothing_is_fetched_without_leave(fashion, mirror, tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be .* Allow the down"):
        data.fashion_mnist(download=False)
    assert mirror[1] == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_bad_cached_file_is_reported_and_replaced(fashion, mirror, cached, reason):
    store(cached, fashion)
    file = cached / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(DAMAGE[reason](file.read_bytes()))
    with (
        pytest.warns(UserWarning, match=reason) as warned,
        pytest.raises(DataError, match=rf"{file.name} is {reason}.* Allow the download"),
    ):
        data.fashion_mnist(download=False)
    assert warned[0].filename == __file__, "it names the caller"
    with pytest.warns(UserWarning, match=rf"{file.name} is {reason}.* downloaded again"):
        sets = data.fashion_mnist()
    assert_loaded(sets, fashion)
    assert gzip.decompress(file.read_bytes()) == fashion["t10k-labels-idx1-ubyte"]
    assert mirror[1] == [f"/{file.name}"]
    assert len(list(cached.iterdir())) == 4


def test_a_cache_that_cannot_be_written_is_said(fashion, mirror, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot be written .*XDG_CACHE_HOME name another folder"):
        data.fashion_mnist()


def test_a_write_that_is_cut_off_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.replace(path, b"old")

    def interrupted(*args):
        raise KeyboardInterrupt

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, function, interrupted)
            with pytest.raises(KeyboardInterrupt):
                files.replace(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not files.DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is absent")
def test_the_real_fashion_mnist(monkeypatch, forgetful):
    monkeypatch.delenv("FASHION_MNIST", raising=False)
    sets = data.load("fashion-mnist")
    assert [split.images.shape for split in sets] == [(n, 28, 28) for n in (50_000, 10_000, 10_000)]
    assert [split.labels.dtype for split in sets] == 3 * [torch.int64]
    labels = torch.cat([sets.train.labels, sets.validation.labels])
    assert labels.bincount().tolist() == 10 * [6000]
    assert sets.test.labels.bincount().tolist() == 10 * [1000]
    assert [split.images.sum().item() for split in sets] == [
        2_853_847_097,
        577_267_072,
        573_469_082,
    ]
    # The brackets of results published for its dynamic binarisation, nats per test image
    greys, means = sets.test.images.double() / 255, (sets.train.images.double() / 255).mean(0)
    logits, entropy = means.logit(), torch.nn.functional.binary_cross_entropy
    independent = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.expand_as(greys), greys, reduction="none"
    )
    assert independent.sum((1, 2)).mean().item() == pytest.approx(385.02, abs=0.005)
    floor = entropy(greys, greys, reduction="none").sum((1, 2)).mean().item()
    assert floor == pytest.approx(189.86, abs=0.005)


# --- binarisation ---------------------------------------------------------------------------

GREYS = torch.arange(256, dtype=torch.uint8)


def assert_expectation_is_grey(mean, count):
    """Frequencies of ones, one per grey, against grey/255: each, and all together, within 5 se.

    With 20,000 draws the sum over greys tells grey/255 from grey/256 by 11 standard errors.
    """
    p = GREYS.double() / 255
    assert mean[0] == 0
    assert mean[255] == 1
    variance = p * (1 - p) / count
    assert ((mean - p).abs() <= 5 * variance.sqrt()).all()
    assert (mean - p).sum().abs() <= 5 * variance.sum().sqrt()


def test_threshold():
    assert torch.equal(threshold(GREYS), (GREYS > 127).byte())
    assert threshold(GREYS.view(2, 1, 128), at=255).sum() == 1
    assert threshold(GREYS, at=1).sum() == 255
    assert threshold(GREYS.view(2, 1, 128)).shape == (2, 1, 128)
    assert threshold(GREYS).dtype == torch.uint8
    for at in (0, 256):
        with pytest.raises(ValueError, match="choose 1 to 255"):
            threshold(GREYS, at)
    with pytest.raises(ValueError, match=r"values 0 to 255, and these are torch\.float32"):
        threshold(GREYS / 255)


def test_the_expected_binarised_image_is_the_grey_image():
    draws = data.binarize(GREYS.expand(20_000, 256), seed=0)
    assert draws.dtype == torch.uint8
    assert draws.max() == 1
    assert_expectation_is_grey(draws.double().mean(0), 20_000)


def test_static_draws_are_the_same_for_ever():
    pinned = {
        "train": "55381f763a3d1ea1b5f3837f2e5fb64df6d293cb7a3b86981fb7d22374638c70",
        "validation": "d26f74c3953a8d1e15b7de5d1a7ef4c168a1013c75a562e48a1b35270cd6dbad",
        "test": "1d007ff9d27d545d5d0ce09b7177026b4c2f386a9081e28a4e8af4bace24dc60",
    }
    assert len(set(data.SEEDS.values())) == 3
    for name, split in data.mnist()._asdict().items():
        draw = data.binarize(split.images, data.SEEDS[name])
        assert draw.shape == split.images.shape
        assert digest(np.packbits(draw.numpy()).tobytes()) == pinned[name]


def test_static_draws_need_grey_images_and_leave_global_random_numbers_alone():
    state = torch.get_rng_state()
    np.random.seed(0)  # noqa: NPY002
    assert not torch.equal(data.binarize(GREYS, 0), data.binarize(GREYS, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.rand() == np.random.RandomState(0).rand()  # noqa: NPY002
    with pytest.raises(ValueError, match=r"these are torch\.float32"):
        data.binarize(GREYS / 255, 0)


# --- batches --------------------------------------------------------------------------------


@pytest.fixture
def grey():
    """24 images of 5 × 7 middling greys, so that noise shows in every one."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(60, 200, (24, 5, 7), dtype=torch.uint8, generator=generator)


def test_dynamic_expectation_is_the_grey_image():
    batches = Batches(GREYS.expand(40, 256), 40, dynamic=True)
    total = sum(batches.batch(step).double().sum(0) for step in range(500))
    assert_expectation_is_grey(total / 20_000, 20_000)


def test_noise_is_uniform_and_uncorrelated():
    batches = Batches(torch.zeros(100, 784, dtype=torch.uint8), dynamic=True)
    noise = torch.stack([batches._noise(step) for step in range(40)]).double()
    counts = noise.long().flatten().bincount(minlength=256)
    assert counts[255] == 0
    expected = noise.numel() / 255
    chi = ((counts[:255] - expected) ** 2 / expected).sum()  # mean 254, variance 508
    assert abs(chi - 254) < 5 * math.sqrt(508)
    z = (noise - 127) / noise.std()
    for one, other in [
        (z[..., 1:], z[..., :-1]),  # neighbouring bytes
        (z[..., 8:], z[..., :-8]),  # neighbouring words
        (z[:, 1:], z[:, :-1]),  # examples
        (z[1:], z[:-1]),  # steps
    ]:
        assert (one * other).mean().abs() < 5 / math.sqrt(one.numel())


def test_an_epoch_visits_every_example_once():
    batches = Batches(torch.arange(30), 5, seed=3)
    epochs = [
        torch.cat([batches.batch(step) for step in range(e * 6, e * 6 + 6)]) for e in range(3)
    ]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(30))
    assert len({tuple(epoch.tolist()) for epoch in [*epochs, torch.arange(30)]}) == 4
    for number, epoch in enumerate(epochs):
        assert torch.equal(torch.cat(list(batches.epoch(number))), epoch)


def test_an_epoch_is_named():
    """A loop over all batches, done twice, would see the same order and the same noise twice."""
    with pytest.raises(TypeError, match=r"say which epoch: for x in batches\.epoch\(0\)"):
        iter(Batches(torch.arange(30), 5))


def test_the_remainder_is_left_out_and_changes():
    batches = Batches(torch.arange(11), 4)
    assert len(batches) == 2
    pairs = [(batches.batch(2 * e), batches.batch(2 * e + 1)) for e in range(9)]
    epochs = [set(torch.cat(pair).tolist()) for pair in pairs]
    assert {len(epoch) for epoch in epochs} == {8}
    assert set().union(*epochs) == set(range(11))


def test_permutations_are_uniform():
    first = [int(Batches(torch.arange(5), 1, seed=seed).batch(0)) for seed in range(2000)]
    counts = torch.tensor(first).bincount(minlength=5)
    assert ((counts - 400).abs() < 5 * math.sqrt(2000 * 0.2 * 0.8)).all()


def test_without_shuffling_the_order_is_kept(grey):
    batches = Batches(grey / 255, 8, shuffle=False)
    assert torch.equal(torch.cat(list(batches.epoch(0))), grey / 255)
    assert torch.equal(batches.batch(4), grey[8:16] / 255)
    assert batches.event_shape == (5, 7)


def test_values_are_used_as_they_are_in_float32():
    x = torch.randn(6, 2, dtype=torch.float64)
    batches = Batches(x, 3)
    assert batches.batch(1).dtype == torch.float32
    assert torch.equal(batches.batch(1), x[batches.indices(1)].float())


@pytest.mark.usefixtures("float64")
def test_batches_are_float32_whatever_the_default(grey):
    for images, dynamic in ((grey, True), (threshold(grey), False)):
        assert Batches(images, 3, dynamic=dynamic).batch(0).dtype == torch.float32


def test_a_batch_depends_on_seed_and_step_alone(grey):
    batches = Batches(grey, 6, dynamic=True, seed=5)
    steps = [7, 0, 3, 7, 11, 0]
    drawn = []
    for step in steps:
        torch.manual_seed(step)
        state = torch.get_rng_state()
        drawn.append(batches.batch(step))
        assert torch.equal(torch.get_rng_state(), state)
    for step, x in zip(steps, drawn, strict=True):
        assert torch.equal(x, Batches(grey, 6, dynamic=True, seed=5).batch(step))
    assert set(torch.cat(drawn).unique().tolist()) == {0, 1}
    assert not torch.equal(batches.batch(0), Batches(grey, 6, dynamic=True, seed=6).batch(0))


def test_a_batch_is_not_changed_by_what_is_done_with_its_indices(grey):
    batches = Batches(grey, 6, dynamic=True)
    before = batches.batch(0)
    batches.indices(0).zero_()
    assert torch.equal(batches.batch(0), before)


def test_noise_is_new_at_every_visit(grey):
    batches = Batches(grey, 24, dynamic=True, shuffle=False)
    assert not torch.equal(batches.batch(0), batches.batch(1))


def test_batches_are_the_same_on_every_machine():
    greys = (torch.arange(24 * 35) % 256).byte().view(24, 5, 7)
    batches = Batches(greys, 8, dynamic=True, seed=2)
    assert batches.indices(4).tolist() == [0, 17, 6, 7, 9, 2, 23, 4]
    bits = np.packbits(torch.cat([batches.batch(step) for step in range(5)]).byte().numpy())
    assert digest(bits.tobytes()) == (
        "f26d4ba90847f98e59ecc7b3b3290d3f7a8a20da65dd558c68272540f5788163"
    )


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_together_see_what_one_sees(grey, dynamic, world):
    batches = Batches(grey if dynamic else grey / 255, 12, dynamic=dynamic)
    for step in range(4):
        shares = [batches.batch(step, rank, world) for rank in range(world)]
        assert {len(share) for share in shares} == {12 // world}
        assert torch.equal(torch.cat(shares), batches.batch(step))


def test_indices_find_the_labels():
    sets = data.mnist().test
    images = sets.images / 255
    batches = Batches(images, 50, seed=1)
    assert torch.equal(batches.batch(3, 1, 2), images[batches.indices(3, 1, 2)])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
        ({"batch_size": 25}, "batch_size = 25 is more than all 24 examples"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0, not -1"),
        ({"seed": None}, "seed must be a whole number of at least 0, not None"),
        ({"seed": 2**32}, "seed = 4294967296 must be 0 to"),
    ],
)
def test_wrong_arguments_are_refused(grey, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        Batches(grey, dynamic=True, **({"batch_size": 6} | arguments))


def test_dynamic_batches_need_grey_images(grey):
    with pytest.raises(ValueError, match=r"values 0 to 255, and these are torch\.float32"):
        Batches(grey / 255, 6, dynamic=True)
    with pytest.raises(ValueError, match=r"values 0 to 255, and these are ndarray"):
        Batches(grey.numpy(), 6, dynamic=True)


def test_images_that_are_black_and_white_are_not_thrown_again(grey):
    """Read as greys, a one would be black once in 255 throws."""
    drawn = data.binarize(grey, seed=1)
    for throw in (
        lambda: data.binarize(drawn, seed=1),
        lambda: threshold(drawn),
        lambda: Batches(drawn, 6, dynamic=True),
    ):
        with pytest.raises(ValueError, match="black and white already"):
            throw()
    assert not data.binarize(torch.zeros(3, 4, dtype=torch.uint8), seed=1).any()
    assert len(data.binarize(grey[:0], seed=1)) == 0


def test_grey_values_are_not_learned_from_as_they_are(grey):
    with pytest.raises(ValueError, match=r"draw their pixels with dynamic=True or data\.binarize"):
        Batches(grey, 6)
    with pytest.raises(TypeError, match=r"images must be a tensor, not ndarray: torch\.as_tensor"):
        Batches(grey.numpy() / 255, 6)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((-1,), "step = -1"),
        ((0, 2, 2), "rank = 2 must be 0 to world - 1 = 1"),
        ((0, -1, 2), "rank = -1"),
        ((0, 0, 4), "batch_size = 6 does not divide among 4 processes: make it a multiple of 4"),
    ],
)
def test_impossible_batches_are_refused(grey, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        Batches(grey, 6, dynamic=True).batch(*arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_on_a_gpu(grey):
    batches, reference = Batches(grey, 12, dynamic=True), Batches(grey, 12, dynamic=True)
    reference.batch(0)
    assert batches.to("cuda") is batches
    assert torch.equal(batches.indices(1).cpu(), reference.indices(1))
    x = batches.batch(1)
    assert x.is_cuda
    assert torch.equal(x, torch.cat([batches.batch(1, rank, 3) for rank in range(3)]))
    greys = Batches(GREYS.expand(20_000, 256), 20_000, dynamic=True).to("cuda")
    assert_expectation_is_grey(greys.batch(0).double().mean(0).cpu(), 20_000)


# --- toy distributions ----------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_bars_and_stripes(side):
    images = data.bars_and_stripes(side)
    expected = {
        tuple(pixels)
        for values in np.ndindex(*[2] * side)
        for pixels in (np.repeat(values, side).tolist(), np.tile(values, side).tolist())
    }
    assert images.shape == (2 ** (side + 1) - 2, side * side)
    assert images.dtype == torch.uint8
    assert {tuple(image) for image in images.tolist()} == expected


def test_four_by_four_bars_and_stripes_are_thirty():
    assert data.bars_and_stripes().shape == (30, 16)


TOYS = {  # distribution, number of modes, distance of the nearest two, standard deviation
    "ring": (data.ring_of_gaussians, 8, 2 * math.sin(math.pi / 8), 0.01),
    "grid": (data.grid_of_gaussians, 25, 2.0, 0.05),
}


@pytest.mark.parametrize("toy", TOYS)
def test_modes_are_distinct_and_placed_evenly(toy):
    make, modes, distance, _ = TOYS[toy]
    means = make().component_distribution.mean
    assert means.shape == (modes, 2)
    nearest = torch.cdist(means, means).fill_diagonal_(math.inf).amin(1)
    torch.testing.assert_close(nearest, torch.full((modes,), distance))
    torch.testing.assert_close(means.mean(0), torch.zeros(2))
    if toy == "ring":
        torch.testing.assert_close(means.norm(dim=1), torch.ones(modes))
    else:
        assert sorted(means.unique().tolist()) == [-4, -2, 0, 2, 4]


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.usefixtures("float64")
def test_densities_are_exact(toy):
    make, modes, _, std = TOYS[toy]
    p = make()
    ticks = torch.arange(-6.5, 6.6, 0.5) * std
    window = torch.cartesian_prod(ticks, ticks)  # the trapezoid rule is exact for normals
    means = p.component_distribution.mean
    mass = p.log_prob(means[:, None] + window).exp().sum() * (0.5 * std) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-8)
    peak = math.log(1 / modes / (2 * math.pi * std**2))
    torch.testing.assert_close(p.log_prob(means), torch.full((modes,), peak))


@pytest.mark.parametrize("toy", TOYS)
def test_samples_lie_within_three_standard_deviations_as_often_as_they_should(toy):
    make, modes, _, std = TOYS[toy]
    p = make()
    x, share = p.sample((50_000,)), 1 - math.exp(-4.5)  # 98.89 %
    distances, nearest = torch.cdist(x, p.component_distribution.mean).min(1)
    within = (distances < 3 * std).double().mean().item()
    assert abs(within - share) < 5 * math.sqrt(share * (1 - share) / 50_000)
    counts = nearest.bincount(minlength=modes).double()
    assert ((counts - 50_000 / modes).abs() < 5 * math.sqrt(50_000 / modes)).all()


def test_swiss_roll(rng):
    x = data.swiss_roll((50_000,), generator=rng)
    t = x.norm(dim=-1)
    torch.testing.assert_close(x, torch.stack([t * t.cos(), t * t.sin()], -1), atol=1e-3, rtol=0)
    u = (t / (1.5 * math.pi) - 1) / 2
    assert -1e-6 < u.min() < 1e-3
    assert 0.999 < u.max() < 1 + 1e-6
    for power in (1, 2):  # moments of the uniform distribution
        se = math.sqrt((1 / (2 * power + 1) - 1 / (power + 1) ** 2) / 50_000)
        assert abs((u**power).mean().item() - 1 / (power + 1)) < 5 * se


def test_two_moons(rng):
    x = data.two_moons((50_000,), noise=0.0, generator=rng)
    upper = (x.norm(dim=-1) - 1).abs() < 1e-5
    upper &= x[:, 1] > -1e-6
    lower = ((x - x.new_tensor([1.0, 0.5])).norm(dim=-1) - 1).abs() < 1e-5
    lower &= x[:, 1] < 0.5 + 1e-6
    assert (upper | lower).all()
    assert abs(upper.double().mean().item() - 0.5) < 5 * math.sqrt(0.25 / 50_000)
    assert abs(x[upper, 0].mean().item()) < 5 * math.sqrt(0.5 / 25_000)
    assert abs(x[lower, 0].mean().item() - 1) < 5 * math.sqrt(0.5 / 25_000)


@pytest.mark.parametrize("sampler", [data.swiss_roll, data.two_moons])
def test_samplers(sampler):
    state = torch.get_rng_state()
    draws = [sampler((3, 4), generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert draws[0].shape == (3, 4, 2)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert sampler().shape == (2,)
    noise = [
        sampler((20_000,), noise=noise, generator=torch.Generator().manual_seed(0))
        for noise in (0.0, 0.3)
    ]
    spread = (noise[1] - noise[0]).std().item()
    assert spread == pytest.approx(0.3, abs=5 * 0.3 / math.sqrt(2 * 40_000))


def test_a_letter_that_is_a_rectangle(rng):
    """A capital I of a sans-serif font: both coordinates uniform, and apart from each other."""
    x = data.letter((20_000,), "I", generator=rng).double()
    across, up = x.T
    assert stats.kstest(up, "uniform", (-2, 4)).pvalue > 1e-4
    width = 4 * 201 / 1493  # its outline in the font's file, in the font's units
    assert across.abs().max() < width / 2 * 1.02  # the units are rounded at a font size
    assert stats.kstest(across / across.abs().max(), "uniform", (-1, 2)).pvalue > 1e-4
    assert 2 * across.abs().max().item() == pytest.approx(width, rel=0.02)
    counts = np.histogram2d(across, up, bins=(4, 8))[0]
    assert stats.chisquare(counts.ravel()).pvalue > 1e-4


def inked(character, cells, size=1200):
    """The shares of a letter's ink in the cells of the rectangle round it, from the font's file.

    Drawn by Pillow, ``(cells, cells)``, the lowest row first; and the rectangle's width for a
    height of 4.
    """
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
    page = Image.new("L", (2 * size, 2 * size))
    ImageDraw.Draw(page).text((size // 2, size // 2), character, 255, font=font)
    left, top, right, bottom = page.getbbox()
    page = page.crop((left, top, right, bottom)).resize((60 * cells, 60 * cells))
    ink = np.asarray(page, float)[::-1].reshape(cells, 60, cells, 60).sum((1, 3))
    return ink / ink.sum(), 4 * (right - left) / (bottom - top)


@pytest.mark.parametrize("character", ["A", "O", "R", "i", "%", "®"])
def test_a_letter_is_uniform_on_its_ink(rng, character):
    """Holes are empty, dots and strokes full, upright and not mirrored."""
    count, cells = 20_000, 8
    x = data.letter((count,), character, generator=rng)
    shares, width = inked(character, cells)
    assert x[:, 1].abs().max().item() == pytest.approx(2, abs=0.02)
    assert 2 * x[:, 0].abs().max().item() == pytest.approx(width, rel=0.02)
    box = [[-2, 2], [-width / 2, width / 2]]
    found = np.histogram2d(x[:, 1], x[:, 0], bins=cells, range=box)[0] / count
    error = np.sqrt(shares * (1 - shares) / count)
    assert (np.abs(found - shares) < 5 * error + 1e-3).all()
    assert np.abs(found - shares).sum() < 3 * error.sum() * math.sqrt(2 / math.pi)


def test_the_hole_of_an_o_is_left_empty(rng):
    x = data.letter((5000,), "O", generator=rng)
    assert x.norm(dim=1).min() > 1
    quarters = (x > 0).long() @ torch.tensor([1, 2])
    counts = quarters.bincount(minlength=4)
    assert ((counts - 1250).abs() < 5 * math.sqrt(5000 * 3 / 16)).all()


def test_without_a_wish_the_letter_is_an_a_drawn_anew(rng):
    x = data.letter((50,), generator=rng)
    assert torch.equal(x, data.letter((50,), "A", generator=rng.manual_seed(0)))
    assert not torch.equal(data.letter((50,)), data.letter((50,)))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (5,), (3, 4), (2, 0, 3)])
@pytest.mark.parametrize("character", ["A", "/"])
def test_letters_of_any_number(shape, character):
    """Of few points, and of a stroke that most throws miss, no fewer come."""
    state = torch.get_rng_state()
    draws = [
        data.letter(shape, character, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert draws[0].shape == (*shape, 2)
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2]) == (draws[0].numel() == 0)
    assert draws[0].dtype == torch.float32


@pytest.mark.usefixtures("float64")
def test_a_letter_is_of_the_default_type():
    assert data.letter((4,)).dtype == torch.float64


def test_points_drawn_one_by_one_are_as_uniform(rng):
    x = torch.stack([data.letter((), "O", generator=rng) for _ in range(150)])
    many = data.letter((20_000,), "O", generator=rng)
    for i in range(2):
        assert stats.ks_2samp(x[:, i], many[:, i]).pvalue > 1e-3


@pytest.mark.parametrize("character", ["", "AB", " ", "\n", "\u00a0", "\u200b"])
def test_what_leaves_no_ink_is_refused(character):
    with pytest.raises(ValueError, match="one character that leaves ink is needed, not") as refused:
        data.letter((3,), character)
    assert str(refused.value).endswith(repr(character))
