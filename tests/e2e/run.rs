//! A command signs through the agent, with the tools it already uses; others check the result.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use base64ct::{Base64, Encoding as _};
use ed25519_dalek::{Digest as _, Sha512, Signature, VerifyingKey};
use evanesce_protocol::sshsig::{Envelope, SignedData};
use evanesce_tests::process::output;
use evanesce_tests::{Installation, peers};
use serde_json::Value;

use crate::installation;

/// An operator's key as OpenSSL writes it, and its public half.
fn operator_key(here: &Installation) -> PathBuf {
    let make = "umask 077 && openssl genpkey -algorithm ed25519 -out operator.pem \
        && openssl pkey -in operator.pem -pubout -out operator.pub";
    here.program("sh", ["-c", make]).output().expect_status(0);
    here.work_dir().join("operator.pub")
}

/// What the key signed for a `.sig` file, and the bare signature, each in a file.
fn unpack(here: &Installation, file: &str) -> (PathBuf, PathBuf) {
    let contents = fs::read(here.work_dir().join(file)).unwrap();
    let armoured = fs::read(here.work_dir().join(format!("{file}.sig"))).unwrap();
    let envelope = Envelope::from_armoured(&armoured).unwrap();
    let digest = Sha512::digest(contents);
    let data =
        SignedData { namespace: &envelope.namespace, hash: envelope.hash, message_digest: &digest };
    let bare = &envelope.signature[envelope.signature.len() - 64..];
    (here.file("signed-data", data.to_bytes()), here.file("bare-signature", bare))
}

#[test]
fn what_ssh_keygen_signs_through_the_agent_verifies_with_openssl_and_python() {
    if peers::missing(&["ssh-keygen", "openssl"]) {
        return;
    }
    // Given an operator's key and a file,
    let here = installation();
    let public_key = operator_key(&here);
    here.file("artifact", "the artifact");

    // When ssh-keygen signs it inside `run`,
    let sign = r#"ssh-keygen -Y sign -f "$EVANESCE_PUBLIC_KEY_FILE" -n file artifact"#;
    here.run(&["run", "--key", "operator.pem", "--", "sh", "-c", sign]).expect_status(0);

    // Then OpenSSL verifies it with the public key that OpenSSL made of the same file,
    let (data, signature) = unpack(&here, "artifact");
    let args = ["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"];
    let openssl = |data: &PathBuf| {
        let mut args: Vec<_> = args.iter().map(Into::into).collect();
        args.extend([public_key.clone(), "-in".into(), data.clone()]);
        args.extend(["-sigfile".into(), signature.clone()]);
        here.program("openssl", args).output()
    };
    openssl(&data).expect_status(0);
    let other = here.file("other-data", "something else");
    assert_ne!(openssl(&other).status.code(), Some(0));

    // and so does Python,
    if !peers::missing_python_cryptography() {
        let mut python = Command::new("python3");
        python.args(["-c", PYTHON_VERIFY]).args([&public_key, &data, &signature]);
        output(python).expect_status(0);
    }
    // and the ledger says that the copy, not the key, is gone.
    let verdict = here.json(&["verify", "artifact"]);
    assert_eq!(verdict["verdict"], "trusted", "{verdict:#}");
    assert_eq!(verdict["receipt"]["key"]["fate"], "this-copy-destroyed");
    assert_eq!(verdict["receipt"]["key"]["origin"], "plaintext-file");
}

const PYTHON_VERIFY: &str = "
import sys
from cryptography.hazmat.primitives.serialization import load_pem_public_key
key, data, signature = (open(name, 'rb').read() for name in sys.argv[1:])
load_pem_public_key(key).verify(signature, data)
";

#[test]
fn ssh_add_lists_the_certificate_and_the_key_that_the_variables_name() {
    if peers::missing(&["ssh-add"]) {
        return;
    }
    let here = installation();
    let show = r#"printf '%s\n' "$EVANESCE_PUBLIC_KEY" && ssh-add -L"#;

    let shown = here.run(&["run", "--", "sh", "-c", show]).expect_status(0).stdout;

    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    let blob = lines[0].split(' ').nth(1).unwrap();
    assert!(lines[0].starts_with("ssh-ed25519 "), "{shown}");
    assert!(
        lines[1..].iter().any(|line| line.starts_with("ssh-ed25519-cert-v01@openssh.com ")),
        "{shown}"
    );
    assert!(lines[1..].iter().any(|line| line.contains(blob)), "{shown}");
}

#[test]
fn git_signs_through_the_agent_without_configuration_and_verifies_with_the_notary() {
    if peers::missing(&["git", "ssh-keygen"]) {
        return;
    }
    // Given a repository without a word about signing,
    let here = installation();
    here.file("file", "contents");
    let make = "git init -q . && git config user.name A && git config user.email a@example.org \
        && git add file";
    here.program("sh", ["-c", make]).output().expect_status(0);

    // When a commit is signed inside `run`,
    here.run(&["run", "--", "git", "commit", "-q", "-S", "-m", "signed"]).expect_status(0);

    // Then git accepts it with the notary's line, and nothing without.
    let line = here.run(&["notary", "show", "--allowed-signers"]).expect_status(0).stdout;
    here.file("allowed_signers", line);
    here.file("nobody", "");
    let verify = |signers: &str| {
        let file = format!("gpg.ssh.allowedSignersFile={signers}");
        here.program("git", ["-c", file.as_str(), "verify-commit", "HEAD"]).output()
    };
    verify("allowed_signers").expect_status(0);
    assert_ne!(verify("nobody").status.code(), Some(0));
}

#[test]
fn an_ssh_login_works_with_its_grant_and_not_without() {
    if peers::missing(&["ssh", "sshd", "ssh-keygen", "openssl"]) || peers::no_login() {
        return;
    }
    // Given a real sshd on loopback that knows the operator's key,
    let here = installation();
    operator_key(&here);
    let show = r#"printf '%s\n' "$EVANESCE_PUBLIC_KEY""#;
    let known = here.run(&["run", "--key", "operator.pem", "--", "sh", "-c", show]);
    here.file("authorized_keys", known.expect_status(0).stdout);
    let (_sshd, port) = start_sshd(&here);
    let login = format!(
        "ssh -F /dev/null -p {port} -o BatchMode=yes -o StrictHostKeyChecking=no \
         -o UserKnownHostsFile=/dev/null -o PreferredAuthentications=publickey \
         \"$(id -un)\"@127.0.0.1 echo logged in"
    );
    let log_in = |grants: &[&str]| {
        let run: &[&str] = &["run", "--quiet", "--key", "operator.pem"];
        here.run(&[run, grants, &["--", "sh", "-c", &login]].concat())
    };

    // When one logs in with the grant and one without,
    let granted = log_in(&["--grant", "ssh-login"]);
    let refused = log_in(&[]);

    // Then only the first gets in.
    assert_eq!(granted.expect_status(0).stdout, "logged in\n");
    let refused = refused.expect_status(255);
    assert!(refused.stderr.contains("Permission denied"), "{refused:#?}");
}

fn start_sshd(here: &Installation) -> (evanesce_tests::Running, u16) {
    if peers::is_root() {
        // Its privilege separation wants this directory, which its package makes at boot.
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let make = "ssh-keygen -q -t ed25519 -N '' -f host_key";
    here.program("sh", ["-c", make]).output().expect_status(0);
    let dir = here.work_dir();
    let dir = dir.display();
    // A port that was free a moment ago; another one where it no longer is.
    for _ in 0..10 {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        here.file(
            "sshd_config",
            format!(
                "ListenAddress 127.0.0.1\nPort {port}\nHostKey {dir}/host_key\n\
                 AuthorizedKeysFile {dir}/authorized_keys\nStrictModes no\nUsePAM no\n\
                 PermitRootLogin yes\nPasswordAuthentication no\nPidFile none\n"
            ),
        );
        let serve = format!("exec $(command -v sshd) -D -e -f {dir}/sshd_config 2>&1");
        let mut sshd = here.program("sh", ["-c", &serve]).start();
        if sshd.next_line().contains("listening") {
            return (sshd, port);
        }
    }
    panic!("sshd finds no port");
}

#[test]
fn a_digest_is_signed_as_ed25519ph_and_bound_to_its_context() {
    // Given a digest that was made elsewhere,
    let here = installation();
    let digest = Sha512::digest(b"a large file");
    let name = format!("sha512:{}", hex::encode(digest));

    // When it is signed with a context,
    let args = ["sign", "--digest", &name, "--context", "release", "--output", "digest.json"];
    here.run(&args).expect_status(0);

    // Then an independent Ed25519ph accepts it for this context and no other, nor as plain Ed25519.
    let text = fs::read_to_string(here.work_dir().join("digest.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["algorithm"], "Ed25519ph");
    let key = public_key(&document["public_key"]);
    let signature = Base64::decode_vec(document["signature"].as_str().unwrap()).unwrap();
    let signature = Signature::from_slice(&signature).unwrap();
    let hashed = || Sha512::new().chain_update(b"a large file");
    key.verify_prehashed_strict(hashed(), Some(b"release"), &signature).unwrap();
    key.verify_prehashed_strict(hashed(), Some(b"other"), &signature).unwrap_err();
    key.verify_strict(&digest, &signature).unwrap_err();
}

fn public_key(value: &Value) -> VerifyingKey {
    let text = value.as_str().unwrap();
    let digits = text.rsplit(':').next().unwrap();
    let bytes: [u8; 32] = hex::decode(digits).unwrap().try_into().unwrap();
    VerifyingKey::from_bytes(&bytes).unwrap()
}

#[test]
fn the_commands_own_end_is_passed_on() {
    let here = installation();
    here.file("not-executable", "text");
    let status = |command: &[&str]| {
        here.run(&[&["run", "--quiet", "--"], command].concat()).status.code().unwrap()
    };

    assert_eq!(status(&["true"]), 0);
    assert_eq!(status(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(status(&["sh", "-c", "kill -TERM $$"]), 128 + 15);
    assert_eq!(status(&["./not-executable"]), 126);
    assert_eq!(status(&["no-such-command-anywhere"]), 127);
    here.run(&["audit", "verify"]).expect_status(0);
}

#[test]
fn standard_output_is_the_commands_alone() {
    let here = installation();

    let outcome = here.run(&["run", "--", "echo", "mine"]).expect_status(0);

    assert_eq!(outcome.stdout, "mine\n");
    assert!(outcome.stderr.contains("destroyed"), "{outcome:#?}");
}

#[test]
fn events_have_stable_names_and_end_before_the_receipt() {
    let here = installation();

    let run = here.run(&["run", "--log", "info", "--workload-id", "w", "--", "true"]);

    let run = run.expect_status(0);
    let lines: Vec<_> = run.stderr.lines().collect();
    let is_event = |line: &&str| line.contains("event=");
    let names: Vec<_> = lines
        .iter()
        .filter(|line| is_event(line))
        .filter_map(|line| line.split("event=").nth(1)?.split(' ').next())
        .collect();
    let expected = [
        "notary.key",
        "worker.started",
        "worker.cage-checked",
        "key.loaded",
        "key.certified",
        "agent.serving",
        "command.ended",
        "workload.ended",
    ];
    assert_eq!(names, expected, "{run:#?}");
    // What is said of the receipt comes after the last event.
    let last_event = lines.iter().rposition(is_event).unwrap();
    let receipt = lines.iter().position(|line| line.starts_with("receipt")).unwrap();
    assert!(last_event < receipt, "{run:#?}");
}

/// A receiver of the journal's own protocol, in a place where nothing else sees it.
#[test]
fn events_reach_the_journal_of_systemd_as_fields() {
    if peers::not_root() || peers::missing(&["unshare", "python3"]) {
        return;
    }
    let here = installation();
    let receiver = here.file(
        "journal.py",
        "import os, socket, subprocess, sys\n\
         os.makedirs('/run/systemd/journal')\n\
         journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         journal.bind('/run/systemd/journal/socket')\n\
         journal.setblocking(False)\n\
         status = subprocess.call(sys.argv[1:])\n\
         try:\n    while True: print(journal.recv(65536).decode(errors='replace'))\n\
         except BlockingIOError: sys.exit(status)\n",
    );
    let script = format!("mount -t tmpfs tmpfs /run && exec python3 {} \"$@\"", receiver.display());
    let apart = ["unshare", "--mount", "sh", "-c", &script, "sh"];

    let line = ["run", "--log", "info", "--log-to", "journald", "--", "true"];
    let run = here.evanesce_under(&apart, line).output().expect_status(0);

    assert!(run.stdout.contains("worker.cage-checked"), "{run:#?}");
    assert!(run.stdout.contains("workload.ended"), "{run:#?}");
    assert!(run.stdout.contains("evanesce_launcher::workload"), "{run:#?}");
    assert!(!run.stderr.contains("event="), "{run:#?}");
}

/// What a person at a terminal does: Ctrl-C reaches the command, Ctrl-Z stops the job and `fg` goes
/// on with it, and the key is scrubbed at the end.
#[test]
fn at_a_terminal_ctrl_c_reaches_the_command_and_a_stopped_job_goes_on() {
    if peers::missing(&["python3", "bash"]) {
        return;
    }
    let here = installation();
    let session = here.file(
        "session.py",
        "import os, pty, select, sys\n\
         pid, terminal = pty.fork()\n\
         if pid == 0: os.execvp('bash', ['bash', '--noediting', '--norc', '--noprofile', '-i'])\n\
         seen = ''\n\
         def until(text):\n\
         \x20   global seen\n\
         \x20   while text not in seen:\n\
         \x20       if not select.select([terminal], [], [], 30)[0]: sys.exit('no ' + text + ': ' + seen)\n\
         \x20       seen += os.read(terminal, 4096).decode(errors='replace')\n\
         \x20   seen = seen.split(text, 1)[1]\n\
         def say(text): os.write(terminal, text.encode())\n\
         say('PS1=; ' + sys.argv[1] + '\\n')\n\
         until('command runs')\n\
         say('\\x1a'); until('Stopped')\n\
         say('echo status $((40 + 2)); fg\\n'); until('status 42')\n\
         open('again', 'w').close(); until('went on')\n\
         say('\\x03'); until('interrupted'); until('destroyed')\n\
         say('echo ended with $?\\n'); until('ended with 7')\n",
    );
    // A file of its own: the shell prints a job's line when it stops and when it goes on, and what
    // the command says must not be in it. It reads nothing from the terminal: a read that is being
    // stopped can still take what was typed for the shell.
    let command = here.file(
        "command.sh",
        "trap 'echo interrupted; exit 7' INT; echo command runs\n\
         while [ ! -e again ]; do sleep 0.05; done\n\
         echo went on; while :; do sleep 0.1; done\n",
    );
    let job = format!(
        "{} run --workload-id job -- sh {}",
        here.program_file().display(),
        command.display()
    );

    here.program("python3", [session.as_os_str(), job.as_ref()]).output().expect_status(0);

    assert_eq!(here.receipt("job")["command"], serde_json::json!({ "exited": 7 }));
}
