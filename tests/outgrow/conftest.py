"""Real servers on this machine: S3-compatible storage, PostgreSQL, MLflow with names and passwords."""

from __future__ import annotations

import configparser
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.servers import KEYS, PASSWORD, ROOT, free_port, read_environment, wait_for

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").is_dir() else []


def pytest_collection_modifyitems(items) -> None:
    """These start servers and take a minute; `make outgrow` runs them."""
    if os.environ.get("FPORTRAIT_OUTGROW") != "1":
        for item in items:
            if Path(__file__).parent in Path(item.fspath).parents:
                item.add_marker(pytest.mark.skip(reason="starts servers: run `make outgrow`"))


@pytest.fixture(scope="session")
def storage() -> Iterator[str]:
    """The address of an S3-compatible server (moto) with two buckets."""
    pytest.importorskip("moto", reason="moto[server] is not installed")
    boto3 = pytest.importorskip("boto3", reason="the extra 'outgrow' is not installed")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    old = {name: os.environ.get(name) for name in KEYS}
    os.environ.update(KEYS)
    try:
        wait_for(lambda: urllib.request.urlopen(f"{address}/moto-api/", timeout=5).status == 200, "the storage")
        client = boto3.client("s3", endpoint_url=address)
        for bucket in ("fportrait-dvc", "fportrait-mlflow"):
            client.create_bucket(Bucket=bucket)
        yield address
    finally:
        server.kill()
        server.wait()
        for name, value in old.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """`postgresql://…:PORT` of a cluster of its own; PostgreSQL refuses root, so root lends it to the user postgres."""
    pytest.importorskip("psycopg2", reason="the extra 'outgrow' is not installed")
    if not POSTGRES:
        pytest.skip("no PostgreSQL: apt install postgresql")
    folder, port = Path(tempfile.mkdtemp(prefix="fportrait-pg-")), free_port()
    become: list[str] = []
    if os.getuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        become = ["runuser", "-u", "postgres", "--"]
    (secret := Path(tempfile.mkstemp()[1])).write_text(PASSWORD)
    secret.chmod(0o644)

    def tool(name: str, *arguments: str) -> None:
        quiet = {"check": True, "capture_output": True, "cwd": "/"}
        subprocess.run([*become, str(POSTGRES[-1] / name), *arguments], **quiet)

    try:
        where = str(folder / "data")
        tool("initdb", "-D", where, "-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        tool("pg_ctl", "-D", where, "-w", "-l", str(folder / "log"), "-o", options, "start")
        import psycopg2

        address = f"postgresql://mlflow:{PASSWORD}@127.0.0.1:{port}"
        connection = psycopg2.connect(f"{address}/postgres")
        connection.autocommit = True
        for name in ("mlflow", "mlflow_auth"):
            connection.cursor().execute(f"CREATE DATABASE {name}")
        connection.close()
        yield address
        tool("pg_ctl", "-D", where, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        secret.unlink()


@pytest.fixture(scope="session")
def mlflow_server(storage: str, database: str, tmp_path_factory) -> Iterator[str]:
    """MLflow as conf/outgrow starts it; only hosts and passwords are replaced."""
    folder = tmp_path_factory.mktemp("mlflow")
    driver = database.replace("postgresql:", "postgresql+psycopg2:")
    auth = configparser.ConfigParser()
    auth.read(ROOT / "conf/outgrow/basic_auth.ini")
    auth["mlflow"].update({"database_uri": f"{driver}/mlflow_auth", "admin_password": PASSWORD})
    with open(folder / "basic_auth.ini", "w") as target:
        auth.write(target)
    settings = read_environment("mlflow-server.env")
    settings |= {
        "MLFLOW_BACKEND_STORE_URI": f"{driver}/mlflow",
        "MLFLOW_S3_ENDPOINT_URL": storage,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32,
    }
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1"]
    log = open(folder / "log", "w")  # noqa: SIM115 - the server's own
    server = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"],
        env=os.environ | settings,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: urllib.request.urlopen(f"{address}/health", timeout=5).status == 200, "MLflow")
        yield address
    finally:
        os.killpg(server.pid, 9)
        server.wait()
        log.close()
