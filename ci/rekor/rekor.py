#!/usr/bin/env python3
"""Publishes to real logs, and has strangers check what comes of it. Run by `cargo xtask rekor`.

Starts on loopback: Rekor v2 (POSIX storage) behind a small front that serves its tiles, a timestamp
authority, and Rekor v1 with Trillian and PostgreSQL. Signs, ends a workload, rotates a key, publishes
all of it; verifies each bundle with `evanesce verify --bundle` and with @sigstore/verify,
and shows that both refuse what was changed. Tessera's fsck reads the local log.

    rekor.py EVANESCE TOOLS NODE-MODULES WORK

Each part that lacks its programs says so on a line that starts with SKIPPED.
"""
import base64
import fcntl
import hashlib
import http.server
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

EVANESCE, TOOLS, NODE, WORK = (Path(argument).absolute() for argument in sys.argv[1:5])
VERIFIER = Path(__file__).resolve().parents[2] / "tests/verify_bundle.mjs"
START = "2020-01-01T00:00:00Z"
KINDS = ("signature", "receipt", "key-rotation")
processes = []


def say(text):
    print(text, flush=True)


def run(*command, status=0, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if status is not None and done.returncode != status:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def start(name, *command, **options):
    log = open(WORK / f"{name}.log", "wb")
    processes.append(subprocess.Popen([str(part) for part in command], stdout=log, stderr=log,
                                      stdin=subprocess.DEVNULL, **options))


def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url, data=None, headers={}):
    request = urllib.request.Request(url, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def wait_for(url, what):
    until = time.monotonic() + 60
    while True:
        try:
            return get(url)
        except (OSError, urllib.error.URLError) as error:
            if time.monotonic() > until:
                raise SystemExit(f"{what} does not answer: {error}; see {WORK}")
            time.sleep(0.2)


def have(*programs):
    missing = [name for name in programs if not (TOOLS / name).exists() and not shutil.which(name)]
    return missing


def public_der(key):
    return subprocess.run(["openssl", "pkey", "-in", str(key), "-pubout", "-outform", "DER"],
                          capture_output=True, check=True).stdout


def b64(data):
    return base64.b64encode(data).decode()


def tlog(name, der, details, log_id):
    return {"baseUrl": f"https://{name}", "hashAlgorithm": "SHA2_256",
            "publicKey": {"rawBytes": b64(der), "keyDetails": details, "validFor": {"start": START}},
            "logId": {"keyId": b64(log_id)}}


def signing_config(url, version, tsa=None):
    service = lambda url, version: {"url": url, "majorApiVersion": version,
                                    "validFor": {"start": START}, "operator": "test"}
    config = {"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
              "rekorTlogUrls": [service(url, version)], "rekorTlogConfig": {"selector": "ANY"}}
    if tsa:
        config |= {"tsaUrls": [service(tsa, 1)], "tsaConfig": {"selector": "ANY"}}
    return config


def trusted_root(tlogs, chain=None):
    root = {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "tlogs": tlogs,
            "certificateAuthorities": [], "ctlogs": [], "timestampAuthorities": []}
    if chain:
        root["timestampAuthorities"] = [
            {"subject": {"organization": "test", "commonName": "test"}, "uri": "https://tsa.test",
             "certChain": {"certificates": [{"rawBytes": der} for der in chain]},
             "validFor": {"start": START}}]
    return root


class Front(http.server.BaseHTTPRequestHandler):
    """What a web server does in front of Rekor: requests to it, and of v2 tiles from its directory.
    It can lose what Rekor answers."""
    protocol_version = "HTTP/1.1"

    def pass_on(self, body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.server.rekor}{self.path}", data=body,
            headers={"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                self.answer(answer.status, answer.read(), answer.headers)
        except urllib.error.HTTPError as error:
            self.answer(error.code, error.read(), error.headers)

    def do_POST(self):
        self.pass_on(self.rfile.read(int(self.headers["content-length"])))

    def do_GET(self):
        if self.server.directory is None:
            return self.pass_on(None)
        path = self.server.directory / self.path.removeprefix("/api/v2/")
        ok = path.is_file()
        self.answer(200 if ok else 404, path.read_bytes() if ok else b"", {})

    def answer(self, status, body, headers):
        if self.server.lose:
            self.close_connection = True
            return
        self.send_response(status)
        for name in headers:
            if name.lower() == "location" or name.lower().endswith("x-log-index"):
                self.send_header(name, headers[name])
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def start_front(rekor, directory):
    front = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Front)
    front.rekor, front.directory, front.lose = rekor, directory, False
    threading.Thread(target=front.serve_forever, daemon=True).start()
    return front, f"http://127.0.0.1:{front.server_address[1]}"


def start_tsa():
    address = port()
    # Its metrics go to port 2112 of all addresses, whatever it is told.
    start("tsa", TOOLS / "timestamp-server", "serve", "--host=127.0.0.1", f"--port={address}",
          "--timestamp-signer=memory", "--disable-ntp-monitoring")
    url = f"http://127.0.0.1:{address}"
    pem = wait_for(f"{url}/api/v1/timestamp/certchain", "the timestamp authority").decode()
    chain = [part.split("-----END")[0].replace("\n", "")
             for part in pem.split("-----BEGIN CERTIFICATE-----")[1:]]
    return f"{url}/api/v1/timestamp", chain


def start_v2(tsa):
    directory, key = WORK / "rekor2", WORK / "rekor2.pem"
    directory.mkdir()
    run("openssl", "genpkey", "-algorithm", "ed25519", "-out", key)
    http_port, grpc, metrics = port(), port(), port()
    start("rekor2", TOOLS / "posix", "serve", "--hostname=rekor2.test", f"--storage-dir={directory}",
          f"--signer-filepath={key}", "--http-address=127.0.0.1", f"--http-port={http_port}",
          "--grpc-address=127.0.0.1", f"--grpc-port={grpc}", f"--http-metrics-port={metrics}",
          "--checkpoint-interval=1s", "--batch-max-age=100ms", "--persistent-antispam=true")
    wait_for(f"http://127.0.0.1:{http_port}/healthz", "Rekor v2")
    front, url = start_front(http_port, directory)
    der = public_der(key)
    log_id = hashlib.sha256(b"rekor2.test\n\x01" + der[-32:]).digest()
    address, chain = tsa
    root = trusted_root([tlog("rekor2.test", der, "PKIX_ED25519", log_id)], chain)
    config = signing_config(url, 2, address)
    return front, config, root


def start_v1():
    data, key = WORK / "postgres", WORK / "rekor1.pem"
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    user = "postgres" if os.getuid() == 0 else None
    as_user = ["runuser", "-u", user, "--"] if user else []
    data.mkdir()
    if user:
        shutil.chown(data, user)
        os.chmod(WORK, 0o755)
    database, sockets = port(), data
    run(*as_user, binaries / "initdb", "-D", data / "db", "-A", "trust", "-U", "rekor", cwd=data)
    start("postgres", *as_user, binaries / "postgres", "-D", data / "db", "-p", str(database),
          "-k", sockets, "-c", "listen_addresses=127.0.0.1", cwd=data)
    until = time.monotonic() + 60
    psql = ["psql", "-h", "127.0.0.1", "-p", str(database), "-U", "rekor", "-v", "ON_ERROR_STOP=1"]
    while run(*psql, "-d", "postgres", "-c", "select 1", status=None).returncode:
        if time.monotonic() > until:
            raise SystemExit("PostgreSQL does not start")
        time.sleep(0.3)
    run(*psql, "-d", "postgres", "-c", "create database trillian")
    modules = run("go", "env", "GOMODCACHE").stdout.strip()
    schema = f"{modules}/github.com/google/trillian@v1.7.3/storage/postgresql/schema/storage.sql"
    run(*psql, "-d", "trillian", "-f", schema)
    storage = ["--storage_system=postgresql", "--quota_system=noop",
               f"--postgresql_uri=postgresql://rekor@127.0.0.1:{database}/trillian"]
    log, http_port = port(), port()
    start("trillian", TOOLS / "trillian_log_server", *storage, f"--rpc_endpoint=127.0.0.1:{log}",
          f"--http_endpoint=127.0.0.1:{http_port}")
    start("signer", TOOLS / "trillian_log_signer", *storage, "--force_master", "--sequencer_interval=100ms",
          f"--rpc_endpoint=127.0.0.1:{port()}", f"--http_endpoint=127.0.0.1:{port()}")
    wait_for(f"http://127.0.0.1:{http_port}/metrics", "Trillian")
    tree = run(TOOLS / "createtree", f"--admin_server=127.0.0.1:{log}").stdout.strip().split()[-1]
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    address = port()
    # Without Redis: nothing here searches by key.
    start("rekor1", TOOLS / "rekor-server", "serve", "--trillian_log_server.address=127.0.0.1",
          f"--trillian_log_server.port={log}", f"--trillian_log_server.tlog_id={tree}",
          "--rekor_server.address=127.0.0.1", f"--port={address}", "--rekor_server.hostname=rekor1.test",
          f"--rekor_server.signer={key}", "--enable_retrieve_api=false",
          "--enabled_api_endpoints=getLogInfo,getPublicKey,createLogEntry,getLogEntryByIndex,getLogEntryByUUID,getLogProof")
    wait_for(f"http://127.0.0.1:{address}/api/v1/log", "Rekor v1")
    front, url = start_front(address, None)
    der = public_der(key)
    root = trusted_root([tlog("rekor1.test", der, "PKIX_ECDSA_P256_SHA_256", hashlib.sha256(der).digest())])
    return front, signing_config(url, 1), root


def size_of_v1(front):
    log = json.loads(get(f"http://127.0.0.1:{front.rekor}/api/v1/log"))
    return log["treeSize"]


def size_of_v2(front):
    return int((front.directory / "checkpoint").read_text().split("\n")[1])


class Site:
    """One installation, with a signed file, an ended key, and a key that handed over to another."""

    def __init__(self):
        self.dir = WORK / "site"
        self.dir.mkdir(mode=0o700)
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.dir),
                       "XDG_RUNTIME_DIR": str(self.dir / "run")}
        (self.dir / "run").mkdir(mode=0o700)
        self.options = {"cwd": self.dir, "env": environment}
        (self.dir / "signature.artifact").write_text("a file\n")
        self.evanesce("sign", "signature.artifact")
        self.first = (self.dir / "state/notary/notary.pem").read_bytes()
        (self.dir / "notary.pem").write_bytes(self.first)
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.dir / "other.key")
        run("openssl", "ec", "-in", self.dir / "other.key", "-pubout", "-out", self.dir / "other.pem")
        self.swapped = "sha256:" + hashlib.sha256(public_der(self.dir / "other.key")).hexdigest()
        self.evanesce("run", "--workload-id", "ended", "--", "true")
        self.evanesce("key", "new", "release.age", secrets=["--new-passphrase-fd"])
        self.evanesce("key", "rotate", "release.age", secrets=["--passphrase-fd", "--new-passphrase-fd"])
        rows = [json.loads(line) for line in self.evanesce("audit", "show", "--json").stdout.splitlines()]
        find = lambda test: next(row["seq"] for row in rows if test(row))
        self.rows = {"signature": find(lambda row: row["event"] == "statement"),
                     "receipt": find(lambda row: row["event"] == "receipt" and row["workload"] == "ended"),
                     "key-rotation": find(lambda row: row["event"] == "key-rotated")}

    def evanesce(self, *arguments, status=0, secrets=()):
        """Runs it; each flag of `secrets` gets a descriptor from which a passphrase is read."""
        descriptors = []
        for flag in secrets:
            reading, writing = os.pipe()
            os.write(writing, b"a passphrase for a test\n")
            os.close(writing)
            descriptors.append(reading)
            arguments += (flag, str(reading))
        try:
            return run(EVANESCE, "--state-dir", self.dir / "state", *arguments, status=status,
                       pass_fds=descriptors, **self.options)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def add(self, name, config, root):
        for kind, content in (("config", config), ("root", root)):
            (self.dir / f"{name}.{kind}.json").write_text(json.dumps(content))
        self.evanesce("log", "target", "add", name, "--signing-config", f"{name}.config.json",
                      "--trusted-root", f"{name}.root.json")

    def bundle(self, kind, target):
        """Writes the bundle of one kind with its proof in one log."""
        name, artifact = self.dir / f"{kind}.{target}.json", self.dir / f"{kind}.artifact"
        command = ["log", "proof", "--row", str(self.rows[kind]), "--force", "-o", name]
        if target != "local":
            command += ["--target", target]
        if kind != "signature":
            command += ["--artifact", artifact]
        self.evanesce(*command)
        return name

    def ours(self, bundle, kind, target):
        done = self.evanesce("verify", f"{kind}.artifact", "--bundle", bundle, "--offline", "--json",
                             "--trusted-root", f"{target}.root.json", "--notary", "notary.pem",
                             "--notary", "other.pem", status=None)
        verdict = json.loads(done.stdout) if done.stdout else {"outcome": "error", "reason": done.stderr}
        return verdict["outcome"] == "trusted", verdict["reason"]

    def theirs(self, bundle, kind, target, timestamps):
        done = run("node", VERIFIER, bundle, self.dir / f"{target}.root.json",
                   f"{self.dir}/notary.pem,{self.dir}/other.pem", self.dir / f"{kind}.artifact", str(timestamps), cwd=NODE, status=None)
        return done.returncode == 0, done.stdout.strip() or done.stderr.strip()[-300:]


def flip(text, at=None):
    raw = bytearray(base64.b64decode(text))
    raw[len(raw) // 2 if at is None else at] ^= 1
    return b64(bytes(raw))


def changes(bundle, foreign, swapped):
    """Every way in which a bundle is spoilt: name and text."""
    def spoil(change):
        copy = json.loads(json.dumps(bundle))
        change(copy, copy["verificationMaterial"]["tlogEntries"][0])
        return json.dumps(copy)

    def payload(copy, _):
        copy["dsseEnvelope"]["payload"] = flip(copy["dsseEnvelope"]["payload"])

    def signature(copy, _):
        first = copy["dsseEnvelope"]["signatures"][0]
        first["sig"] = flip(first["sig"], -1)

    def proof(_, entry):
        hashes = entry["inclusionProof"]["hashes"]
        hashes[0] = flip(hashes[0])

    def checkpoint(_, entry):
        note = entry["inclusionProof"]["checkpoint"]
        lines = note["envelope"].split("\n")
        lines[2] = flip(lines[2])
        note["envelope"] = "\n".join(lines)

    def moved(copy, entry):
        entry["integratedTime"] = str(int(entry.get("integratedTime", 0)) + 1000)

    def token(copy, _):
        stamps = copy["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
        stamps[0]["signedTimestamp"] = flip(stamps[0]["signedTimestamp"], -5)

    def key(copy, _):
        # Of a key that is known as well: the signature decides, not the name.
        copy["verificationMaterial"]["publicKey"]["hint"] = swapped
        copy["dsseEnvelope"]["signatures"][0]["keyid"] = swapped

    def other(copy, entry):
        copy["verificationMaterial"]["tlogEntries"] = foreign["verificationMaterial"]["tlogEntries"]

    yield "payload", spoil(payload)
    yield "signature", spoil(signature)
    if bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"].get("hashes"):
        yield "proof hash", spoil(proof)
    yield "checkpoint", spoil(checkpoint)
    if "inclusionPromise" in bundle["verificationMaterial"]["tlogEntries"][0]:
        yield "time", spoil(moved)
    if bundle["verificationMaterial"].get("timestampVerificationData"):
        yield "timestamp", spoil(token)
    yield "swapped key", spoil(key)
    yield "entry of another log", spoil(other)
    yield "truncated", json.dumps(bundle)[:-40]
    yield "50 MB of nesting", "[" * (50 * 1024 * 1024)


def accept_and_refuse(site, target, timestamps, strangers, foreign):
    spoilt = WORK / "spoilt.json"
    accepted = refused = 0
    said = set()
    for kind in KINDS:
        bundle = site.bundle(kind, target)
        verdicts = [("evanesce", site.ours(bundle, kind, target))]
        if strangers:
            verdicts.append(("@sigstore/verify", site.theirs(bundle, kind, target, timestamps)))
        for who, (holds, reason) in verdicts:
            if not holds:
                raise SystemExit(f"{who} refuses the {kind} from {target}: {reason}")
            accepted += 1
        for what, text in changes(json.loads(bundle.read_text()), foreign, site.swapped):
            spoilt.write_text(text)
            verdicts = [("evanesce", site.ours(spoilt, kind, target))]
            if strangers:
                verdicts.append(("@sigstore/verify", site.theirs(spoilt, kind, target, timestamps)))
            for who, (holds, reason) in verdicts:
                if holds:
                    raise SystemExit(f"{who} accepts the {kind} from {target} with another {what}")
                refused += 1
                if (what, who) not in said:
                    said.add((what, who))
                    say(f"  {target}, {what}, {who}: {reason[:150]}")
    say(f"{target}: {accepted} bundles accepted, {refused} spoilt ones refused")


def publish(site, target, entries):
    report = json.loads(site.evanesce("log", "publish", target, "--json", status=None).stdout)
    found = report["targets"][0]
    if found["waiting"] or found["published"] != entries:
        raise SystemExit(f"publishing to {target}: {found}")
    say(f"{target}: {entries} entries published")


def lost_answer(site, target, front, size):
    """The answer is lost; the entry is found again, and not entered twice."""
    site.evanesce("run", "--", "true")
    front.lose = True
    report = json.loads(site.evanesce("log", "publish", target, "--json", status=1).stdout)
    if report["targets"][0]["stopped"]["failed"]["code"] != "publish.no-answer":
        raise SystemExit(f"a lost answer: {report}")
    front.lose = False
    publish(site, target, 1)
    entries = json.loads(site.evanesce("log", "status", "--json").stdout)["entries"]
    if size(front) != entries:
        raise SystemExit(f"{size(front)} entries in {target} of {entries}")
    say(f"{target}: an entry whose answer was lost is found again; {entries} entries, none twice")


def rotated_and_published(site, target):
    """A rotation publishes itself, the receipt of the retired key with it."""
    done = site.evanesce("key", "rotate", "release.age", "--publish", target, "--json",
                         secrets=["--passphrase-fd", "--new-passphrase-fd"])
    waiting = [found["waiting"]["entries"] for found
               in json.loads(site.evanesce("log", "status", "--json").stdout)["targets"]
               if found["target"] == target]
    if json.loads(done.stdout)["publishing"] != "done" or waiting != [0]:
        raise SystemExit(f"a rotation with --publish: {done.stdout}{done.stderr}, waiting: {waiting}")
    say(f"{target}: a rotation is published as it ends")


def fsck(site):
    if have("fsck"):
        return say("SKIPPED: Tessera's fsck is not installed")
    status = json.loads(site.evanesce("log", "status", "--json").stdout)
    vkey = WORK / "vkey.txt"
    vkey.write_text(status["verifier_key"] + "\n")
    done = run(TOOLS / "fsck", f"--storage_url=file://{site.dir}/state/log/tiles/", f"--public_key={vkey}",
               f"--origin={status['origin']}", "--ui=false", status=None)
    if done.returncode:
        raise SystemExit(f"fsck: {done.stdout}{done.stderr}")
    say(f"fsck: the local log of {status['entries']} entries holds")


def main():
    WORK.mkdir(parents=True)
    strangers = shutil.which("node") and (NODE / "node_modules/@sigstore/verify").exists()
    if not strangers:
        say("SKIPPED: @sigstore/verify: no node, or it is not installed")
    site = Site()
    entries = json.loads(site.evanesce("log", "status", "--json").stdout)["entries"]
    site.evanesce("log", "export", "--trusted-root", "-o", "local.root.json")
    # The local root trusts this log alone: an entry of another installation is one of another log.
    foreign = json.loads((Path(__file__).resolve().parents[2]
                          / "runtime/transparency/tests/samples/signature.sigstore.json").read_text())
    accept_and_refuse(site, "local", 0, strangers, foreign)
    fsck(site)
    if have("posix", "timestamp-server", "openssl"):
        say("SKIPPED: Rekor v2: " + ", ".join(have("posix", "timestamp-server", "openssl")) + " missing")
    else:
        front, config, root = start_v2(start_tsa())
        site.add("v2", config, root)
        publish(site, "v2", entries)
        accept_and_refuse(site, "v2", 1, strangers, foreign)
        lost_answer(site, "v2", front, size_of_v2)
        rotated_and_published(site, "v2")
    needed = ("trillian_log_server", "trillian_log_signer", "createtree", "rekor-server", "psql", "go")
    if have(*needed) or not Path("/usr/lib/postgresql").exists():
        say("SKIPPED: Rekor v1: " + (", ".join(have(*needed)) or "PostgreSQL") + " missing")
    else:
        front, config, root = start_v1()
        site.add("v1", config, root)
        publish(site, "v1", json.loads(site.evanesce("log", "status", "--json").stdout)["entries"])
        accept_and_refuse(site, "v1", 1, strangers, foreign)
        lost_answer(site, "v1", front, size_of_v1)
    say("done")


def apart():
    """Where this may: without any network but a loopback of its own, since the timestamp authority and
    Rekor v1 listen for metrics on a port of every address."""
    if os.geteuid() or not shutil.which("unshare"):
        return
    if "--apart" not in sys.argv:
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv, "--apart"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = struct.pack("16sh", b"lo", IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, up)


IFF_UP, SIOCSIFFLAGS = 1, 0x8914

apart()
try:
    main()
finally:
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        process.wait()
