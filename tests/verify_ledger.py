#!/usr/bin/env python3
"""Audits a ledger. Written from docs/formats/ledger.md and docs/formats/receipt.md alone, with the
standard library; signatures are checked if the package `cryptography` is there.

    verify_ledger.py DIRECTORY [--notary PEM]... [--checkpoint FILE]

Prints a verdict as JSON. Exit status: 0 trusted, 1 invalid, 2 misuse, 3 intact, signer unknown."""

import argparse, base64, datetime, glob, hashlib, json, os, re, sys

try:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
except ImportError:
    ec = None

ROW_BYTES_MAX = 64 * 1024
HEADER = re.compile(
    rb'\{"seq":([1-9][0-9]*),"prev":"(sha256:[0-9a-f]{64})","at":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)"'
    rb'(?:,"workload":"([a-z0-9][a-z0-9._-]{0,63})")?,"event":"([a-z-]+)"[,}]')
RECEIPT = "https://evanesce.dev/receipt/v1"
CHECKPOINT = "https://evanesce.dev/ledger-checkpoint/v1"
SHRED = "https://evanesce.dev/shred-receipt/v1"
REPORT = "https://evanesce.dev/playbook-report/v1"
ROTATION = "https://evanesce.dev/notary-rotation/v1"
KEY_RELEASE = "https://evanesce.dev/key-release/v1"
KEY_ROTATION = "https://evanesce.dev/key-rotation/v1"
MEMBERS = {
    "caged": ("worker_pid", "checks", "degraded"),
    "certified": ("certificate", "notary", "valid_before"),
    "wiped": ("regions", "bytes"),
    "failed": ("code", "message"),
    "closed-torn-row": ("bytes", "digest"),
}


class Bad(Exception):
    """What is wrong with the row that is being read."""


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def need(condition, problem):
    if not condition:
        raise Bad(problem)


def unbase64(text):
    data = base64.b64decode(text, validate=True)
    need(base64.b64encode(data).decode() == text, "parse")
    return data


def parse(text):
    def refuse(constant):
        raise ValueError(constant)

    def once(members):
        if len(dict(members)) != len(members):
            raise ValueError("a member that comes twice")
        return dict(members)
    return json.loads(text.decode("utf-8"), parse_constant=refuse, object_pairs_hook=once)


def header(line):
    found = HEADER.match(line)
    need(found, "header")
    seq, prev, at, workload, event = (part and part.decode() for part in found.groups())
    try:
        need(datetime.datetime.strptime(at, "%Y-%m-%dT%H:%M:%S.%fZ").year >= 1970, "header")
    except ValueError:
        raise Bad("header") from None
    return int(seq), prev, at, workload, event


def both_signed(said, keys):
    at = datetime.datetime.strptime(said["at"], "%Y-%m-%dT%H:%M:%S.%fZ")
    at = (at - datetime.datetime(1970, 1, 1)) // datetime.timedelta(milliseconds=1)
    previous = bytes.fromhex((said.get("previous") or "sha256:" + "00" * 32).removeprefix("sha256:"))
    signed = b"".join([
        b"evanesce key-rotation v1\0", bytes.fromhex(said["ledger"]),
        said["generation"].to_bytes(8, "big"), keys["retired"], keys["successor"],
        at.to_bytes(8, "big"), previous, said["reason"].encode()])
    for name, key in keys.items() if ec else ():
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(key).verify(
                unbase64(said["signatures"][name]), signed)
        except Exception:  # cryptography has one exception for each way to be wrong
            return False
    return True


class Envelope:
    def __init__(self, value, problem="parse"):
        (signature,) = value["signatures"]
        self.key, self.signature = signature["keyid"], unbase64(signature["sig"])
        self.type, self.payload = value["payloadType"], unbase64(value["payload"])
        try:
            self.statement = parse(self.payload)
            self.predicate = self.statement["predicate"]
        except (KeyError, TypeError, ValueError):
            raise Bad(problem) from None

    def is_about(self, kind, name, digest):
        subject = [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}]
        return (self.statement["_type"] == "https://in-toto.io/Statement/v1"
                and self.statement["predicateType"] == kind
                and self.statement["subject"] == subject)

    def signed_by(self, spki):
        kind = b"application/vnd.in-toto+json"
        pae = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(self.payload), self.payload)
        try:
            serialization.load_der_public_key(spki).verify(
                self.signature, pae, ec.ECDSA(hashes.SHA256()))
        except Exception:  # as above
            return False
        return self.type.encode() == kind


class Audit:
    def __init__(self, keys, checkpoint):
        self.keys = {sha256(spki): spki for spki in keys}
        self.checkpoint, self.checkpointed, self.retired = checkpoint, None, set()
        self.rows, self.head, self.ledger = 0, sha256(b"evanesce ledger v1\0"), None
        self.open, self.signed_through, self.unknown, self.bad = {}, 0, 0, None

    def report(self, seq, problem):
        if self.bad is None or seq < self.bad[0]:
            self.bad = (seq, problem)

    def check(self, envelope, covers):
        need(envelope.key not in self.retired, "retired-signer")
        if envelope.key not in self.keys or ec is None:
            self.unknown += 1
            return
        need(envelope.signed_by(self.keys[envelope.key]), "signature")
        self.signed_through = max(self.signed_through, covers)

    def notary(self, row):
        spki = unbase64(row["public_key"])
        need(sha256(spki) == row["key_id"], "notary")
        if row.get("rotation") is None:
            return
        rotation = Envelope(row["rotation"])
        need(rotation.key not in self.retired, "notary")
        if rotation.key not in self.keys or ec is None:
            return
        said = rotation.predicate
        need(rotation.signed_by(self.keys[rotation.key])
             and rotation.is_about(ROTATION, "notary", row["key_id"])
             and (said["ledger"], said["retired"], said["successor"])
             == (self.ledger, rotation.key, row["public_key"]), "notary")
        self.retired.add(rotation.key)
        self.keys.setdefault(row["key_id"], spki)

    def event(self, first_line, seq, workload, event, row, digest):
        begins = ("opened" if seq == 1 else "segment") if first_line else None
        need(event == begins if first_line or event in ("opened", "segment") else True, "segment")
        life = self.open.get(workload)
        need(all(name in row for name in MEMBERS.get(event, ())), "parse")
        if event == "opened":
            self.ledger = row["ledger"]
        elif event == "notary":
            self.notary(row)
        elif event == "checkpoint":
            envelope = Envelope(row["envelope"])
            said = envelope.predicate
            need(envelope.is_about(CHECKPOINT, "ledger " + self.ledger, self.head)
                 and (said["ledger"], said["rows"], said["head"])
                 == (self.ledger, seq - 1, self.head), "checkpoint")
            self.check(envelope, seq - 1)
        elif event == "shredded":
            envelope = Envelope(row["envelope"])
            said = envelope.predicate
            process, whole = said["process"], not any(said["left"].values())
            name = "evanesce process v1\0{boot_id} {pid} {start_time}".format(**process)
            need(envelope.is_about(SHRED, "process %d" % process["pid"], sha256(name.encode()))
                 and said["ledger"] == {"id": self.ledger, "last": seq - 1, "head": self.head}
                 and (said["fate"] == "overwritten")
                 == (whole and not said.get("unproven")), "receipt")
            self.check(envelope, seq - 1)
        elif event == "statement":
            self.check(Envelope(row["envelope"]), 0)
        elif event == "key-rotated":
            envelope = Envelope(row["envelope"])
            said = envelope.predicate
            keys = {name: bytes.fromhex(said[name].removeprefix("ed25519:"))
                    for name in ("retired", "successor")}
            need(envelope.is_about(KEY_ROTATION, "key generation %d" % said["generation"],
                                   sha256(keys["successor"]))
                 and said["ledger"] == self.ledger and both_signed(said, keys), "rotation")
            self.check(envelope, 0)
        elif event == "reported":
            envelope = Envelope(row["envelope"], "report")
            said = envelope.predicate
            outcomes = [step["outcome"] for step in said["steps"]]
            may_say = ("does-not-hold" if "does-not-hold" in outcomes
                       else "incomplete" if "left-out" in outcomes or not outcomes else "holds")
            need(envelope.is_about(REPORT, "playbook " + said["playbook"], said["text"])
                 and said["ledger"] == {"id": self.ledger, "last": seq - 1, "head": self.head}
                 and said["outcome"] == may_say, "report")
            self.check(envelope, seq - 1)
        elif event == "released":
            envelope = Envelope(row["envelope"], "release")
            said = envelope.predicate
            public = bytes.fromhex(said["public_key"].removeprefix("ed25519:"))
            need(re.fullmatch("sha256:[0-9a-f]{64}", row["transcript"]), "parse")
            need(envelope.is_about(KEY_RELEASE, "released key", sha256(public))
                 and said["ledger"] == {"id": self.ledger, "last": seq - 1, "head": self.head},
                 "release")
            self.check(envelope, seq - 1)
        elif event in ("started", "received", "loaded", "signed", "receipt"):
            need(workload, "no-workload")
            need((life is None) == (event == "started"),
                 "started-twice" if event == "started" else "not-started")
        if event == "started":
            life = self.open[workload] = {"first": seq, "key": None, "count": 0,
                                          "attested": None, "received": None}
        elif event == "received":
            need(life["key"] is None, "release")
            life["received"] = {name: row[name] for name in (
                "transcript", "session", "holder", "ledger", "public_key", "evidence")}
        elif event == "loaded":
            received = life["received"] and life["received"]["public_key"]
            need((row["origin"] == "released") == (received == row["public_key"]), "release")
            need(life["key"] is None, "loaded-twice")
            life["key"] = {name: row[name] for name in ("public_key", "use", "origin")}
            public = bytes.fromhex(row["public_key"].removeprefix("ed25519:"))
            life["public"] = sha256(public)
            life["commitment"] = hashlib.sha256(b"evanesce requests v1\0" + public).digest()
        elif event == "signed":
            need(life["key"], "no-key")
            need(1 <= len(row["requests"]) <= 256 and row["first"] == life["count"] + 1, "requests")
            for request in row["requests"]:
                request = bytes.fromhex(request.removeprefix("sha256:"))
                life["commitment"] = hashlib.sha256(life["commitment"] + request).digest()
                life["count"] += 1
        elif event == "attested" and life:
            life["attested"] = {name: row[name]
                                for name in ("evidence", "provider", "nonce", "collected")}
        elif event == "failed" and life and life["key"] is None:
            del self.open[workload]
        elif event == "receipt":
            del self.open[workload]
            need(life["key"], "no-key")
            envelope = Envelope(row["envelope"])
            said = envelope.predicate
            by = said.get("released_by")
            need(re.fullmatch("[a-z0-9][a-z0-9._-]{0,63}", said["workload"]), "parse")
            need(by is None or all(re.fullmatch("(sha256:)?[0-9a-f]{64}", by[name])
                                   for name in ("holder", "ledger", "transcript")), "parse")
            fate = said["key"].pop("fate")
            born_inside = life["key"]["origin"] == "born-inside"
            span = {"id": self.ledger, **{name: life[name] for name in ("first", "last", "head")}}
            need(envelope.is_about(RECEIPT, workload, life["public"])
                 and said["workload"] == workload and said["key"] == life["key"]
                 and (fate in ("this-copy-destroyed", "unproven")
                      or fate == "destroyed" and born_inside)
                 and said["signatures"]["count"] == life["count"]
                 and said["signatures"]["commitment"] == "sha256:" + life["commitment"].hex()
                 and said.get("attestation") == life["attested"]
                 and by == (life["received"] and {
                     name: life["received"][name] for name in ("holder", "ledger", "transcript")})
                 and said["ledger"] == span, "receipt")
            self.check(envelope, life["last"])
        if life:
            life.update(last=seq, head=digest)

    def row(self, line, first_line, following):
        """Follows one line; `following` gives the line after it, or None."""
        seq, prev, _, workload, event = header(line)
        need(seq == self.rows + 1, "sequence")
        digest = sha256(line)
        if prev != self.head:
            claim = self.checkpoint and self.checkpoint.predicate
            as_chained = claim["head"] if claim and claim["rows"] == seq else None
            try:
                as_chained = header(following() or b"")[1]
            except Bad:
                pass
            this = seq == 1 or as_chained not in (None, digest)
            self.report(seq if this else seq - 1, "chain")
            raise StopIteration
        try:
            self.event(first_line, seq, workload, event, parse(line), digest)
        except Bad as bad:
            self.report(seq, str(bad))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.report(seq, "parse")
        self.rows, self.head = seq, digest
        if self.checkpoint and self.checkpoint.predicate.get("rows") == seq:
            self.checkpointed = digest

    def read(self, directory):
        paths = sorted(glob.glob(os.path.join(glob.escape(directory), "[0-9]" * 20 + ".jsonl")))
        need(paths, "no ledger")
        lines = self.lines(paths)
        try:
            for line, named in lines:
                need(named in (None, self.rows + 1), "segment")
                self.row(line, named is not None, lambda: next(lines, (None,))[0])
        except Bad as bad:
            self.report(self.rows + 1, str(bad))
        except (StopIteration, RuntimeError):
            pass

    def lines(self, paths):
        """Yields each line, and with the first of a segment the number in the segment's name."""
        for path in paths:
            newest, number = path == paths[-1], 0
            named = int(os.path.basename(path)[:20])
            with open(path, "rb") as file:
                while line := file.readline(ROW_BYTES_MAX):
                    last = newest and not file.peek(1)
                    if last and (not line.endswith(b"\n") or b"\0" in line):
                        return  # what a writer left that died
                    need(line.endswith(b"\n"),
                         "too-long" if len(line) == ROW_BYTES_MAX else "cut-off")
                    number += 1
                    yield line[:-1], named if number == 1 else None
            need(number or newest and named == self.rows + 1, "segment")

    def given(self):
        """What the checkpoint shows that was kept elsewhere."""
        if self.checkpoint is None:
            return None
        if self.checkpoint.key not in self.keys or ec is None:
            self.unknown += 1
            return "unknown-signer"
        said = self.checkpoint.predicate
        if not (self.checkpoint.signed_by(self.keys[self.checkpoint.key])
                and self.checkpoint.is_about(CHECKPOINT, "ledger " + said["ledger"], said["head"])):
            return "invalid"
        if self.ledger and said["ledger"] != self.ledger:
            return "other-ledger"
        if self.checkpointed is None:
            return "rows-missing"
        if self.checkpointed != said["head"]:
            return "other-head"
        self.signed_through = max(self.signed_through, said["rows"])
        return "holds"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory")
    parser.add_argument("--notary", action="append", default=[], metavar="PEM")
    parser.add_argument("--checkpoint", metavar="FILE")
    arguments = parser.parse_args()
    keys = []
    for path in arguments.notary:
        with open(path, encoding="ascii") as file:
            keys.append(base64.b64decode("".join(file.read().split("-----")[2].split())))
    checkpoint = None
    if arguments.checkpoint:
        with open(arguments.checkpoint, encoding="ascii") as file:
            checkpoint = Envelope(json.load(file))
    audit = Audit(keys, checkpoint)
    try:
        audit.read(arguments.directory)
    except Bad as bad:
        parser.error(str(bad))
    shown = audit.given()
    if audit.bad or shown not in (None, "holds", "unknown-signer"):
        outcome, status = "invalid", 1
    elif audit.unknown or not audit.signed_through:
        outcome, status = "unknown-signer", 3
    else:
        outcome, status = "trusted", 0
    bad = audit.bad and {"seq": audit.bad[0], "problem": audit.bad[1]}
    print(json.dumps({
        "outcome": outcome, "rows": audit.rows, "first_bad_row": bad, "checkpoint": shown,
        "open_workloads": sorted(audit.open), "signed_through": audit.signed_through,
        "signatures_checked": ec is not None}))
    return status


if __name__ == "__main__":
    sys.exit(main())
