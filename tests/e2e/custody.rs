//! Where keys come from: every format in and out of real programs, what opens it, and what is wrong
//! with it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use evanesce_tests::{Installation, Outcome, peers};
use serde_json::Value;

use crate::{PROGRAM, installation};

const REFUSED: i32 = 125;

const PASSPHRASE: &str = "correct horse battery staple";

/// A frozen key file of `enclave/custody`, under a name of its own in the working directory.
fn frozen(here: &Installation, name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../enclave/custody/tests/frozen");
    here.file(name, fs::read(path.join(name)).unwrap());
    name.to_owned()
}

/// Runs a shell line with the program as `$E`, so that descriptors can be had.
fn shell(here: &Installation, line: &str) -> Outcome {
    let invocation = here.program("bash", ["-c", line]);
    invocation.env("E", here.program_file()).output()
}

fn key_of_receipt(outcome: &Outcome) -> Value {
    let report: Value = serde_json::from_str(&outcome.stderr).expect("--json of run");
    report["receipt"]["key"].clone()
}

#[test]
fn a_key_of_every_format_signs_and_the_receipt_says_where_it_came_from() {
    if peers::missing(&["bash"]) {
        return;
    }
    let here = installation();
    frozen(&here, "identity.txt");
    for (file, opened_by, origin) in [
        ("pkcs8.pem", "", "plaintext-file"),
        ("openssh.key", "", "plaintext-file"),
        ("pkcs8-pbkdf2-aes256.pem", "passphrase", "sealed-file"),
        ("pkcs8-scrypt.pem", "passphrase", "sealed-file"),
        ("openssh-aes256-ctr.key", "passphrase", "sealed-file"),
        ("age-passphrase.age", "passphrase", "sealed-file"),
        ("sealed-passphrase.age", "passphrase", "sealed-file"),
        ("sealed-recipients.age", "identity", "sealed-file"),
        ("age-x25519.age", "identity", "sealed-file"),
        ("age-x25519-binary.age", "identity", "sealed-file"),
        ("age-two-recipients.age", "identity", "sealed-file"),
    ] {
        frozen(&here, file);
        let opened_by = match opened_by {
            "passphrase" => format!("--passphrase-fd 3 3< <(echo '{PASSPHRASE}')"),
            "identity" => "--identity identity.txt".to_owned(),
            _ => String::new(),
        };
        let line = format!("\"$E\" run --json --key {file} {opened_by} -- true");
        let key = key_of_receipt(&shell(&here, &line).expect_status(0));

        assert_eq!(key["origin"], origin, "{file}");
        assert_eq!(key["fate"], "this-copy-destroyed", "{file}");
        assert_eq!(
            key["public_key"],
            "ed25519:19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1",
            "{file}"
        );
    }
    here.run(&["audit", "verify"]).expect_status(0);
}

#[test]
fn a_key_that_is_born_sealed_signs_and_age_and_openssl_read_it() {
    if peers::missing(&["bash", "age", "age-keygen", "openssl", "ssh-keygen"]) {
        return;
    }
    let here = installation();
    here.program("age-keygen", ["-o", "id.txt"]).output().expect_status(0);
    fs::set_permissions(here.work_dir().join("id.txt"), Permissions::from_mode(0o600)).unwrap();
    let recipient = shell(&here, "age-keygen -y id.txt").expect_status(0).stdout;

    // Given a key that was born inside a worker, of which only the sealed file was written,
    let made = here.json(&["key", "new", "release.age", "--recipient", recipient.trim()]);
    let public_key = made["public_key"].as_str().unwrap();
    let mode = fs::metadata(here.work_dir().join("release.age")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);

    // It is named without being opened, by us and by ssh-keygen,
    let shown = here.json(&["key", "show", "release.age"]);
    assert_eq!(shown["public_key"], public_key);
    assert_eq!((&shown["format"], &shown["recipients"]), (&"age".into(), &1.into()));
    here.program("ssh-keygen", ["-l", "-f", "release.age.pub"]).output().expect_status(0);

    // it signs,
    here.file("message", "a message");
    let line = ["sign", "message", "--key", "release.age", "--identity", "id.txt", "--json"];
    let signed = here.run(&line).expect_status(0);
    assert!(signed.stdout.contains(public_key), "{signed:#?}");

    // and age and OpenSSL find the same key in it.
    let line = "age -d -i id.txt release.age | openssl pkey -pubout -outform DER | tail -c 32 | xxd -p -c 32";
    let found = shell(&here, line).expect_status(0).stdout;
    assert_eq!(format!("ed25519:{}", found.trim()), public_key);
}

#[test]
fn a_key_that_age_sealed_is_sealed_anew_and_the_old_secret_opens_it_no_longer() {
    if peers::missing(&["bash"]) {
        return;
    }
    let here = installation();
    frozen(&here, "identity.txt");
    frozen(&here, "age-x25519.age");
    let reseal = "\"$E\" key reseal age-x25519.age --identity identity.txt \
                  --new-passphrase-fd 3 3< <(echo new passphrase)";
    shell(&here, reseal).expect_status(0);

    let shown = here.json(&["key", "show", "age-x25519.age"]);
    assert_eq!(shown["lock"], "passphrase");
    assert_eq!(shown["kdf"]["scrypt"]["log_n"], 16);
    let run =
        |secret: &str| shell(&here, &format!("\"$E\" run --key age-x25519.age {secret} -- true"));
    run("--identity identity.txt </dev/null").expect_refusal(REFUSED, "passphrase.none");
    run("--passphrase-fd 3 3< <(echo new passphrase)").expect_status(0);
    // Nothing but the key, its public file and what was there before.
    assert_eq!(here.files(), ["age-x25519.age", "age-x25519.age.pub", "identity.txt"]);
}

#[test]
fn what_does_not_open_a_key_is_refused_by_name_and_nothing_is_lost() {
    if peers::missing(&["bash"]) {
        return;
    }
    let here = installation();
    for name in ["identity.txt", "identity-2.txt", "age-x25519.age", "age-passphrase.age"] {
        frozen(&here, name);
    }
    frozen(&here, "openssh-aes256-ctr.key");
    let run = |line: &str, code| {
        let line = format!("\"$E\" run --key {line} -- touch ran </dev/null");
        shell(&here, &line).expect_refusal(REFUSED, code);
    };

    run("openssh-aes256-ctr.key --passphrase-fd 3 3< <(echo wrong)", "key.wrong-passphrase");
    run("openssh-aes256-ctr.key --passphrase-fd 3 3< <(echo)", "passphrase.length");
    run(
        "openssh-aes256-ctr.key --passphrase-fd 3 3< <(head -c 2000 /dev/zero)",
        "passphrase.length",
    );
    run("openssh-aes256-ctr.key --passphrase-fd 999", "secret.descriptor");
    // Open in evanesce itself, and nobody's to name.
    run("openssh-aes256-ctr.key --passphrase-fd 9", "secret.descriptor");
    run("openssh-aes256-ctr.key", "passphrase.none");
    run("age-x25519.age", "identity.none");
    run("age-x25519.age --identity identity-2.txt", "key.wrong-identity");
    run("age-x25519.age --identity age-x25519.age", "identity.malformed");
    run("age-x25519.age --identity missing.txt", "key-file.open");
    run(
        "age-passphrase.age --work-factor-max 17 --passphrase-fd 3 3< <(echo some)",
        "key.work-factor",
    );
    fs::set_permissions(here.work_dir().join("identity.txt"), Permissions::from_mode(0o644))
        .unwrap();
    run("age-x25519.age --identity identity.txt", "key-file.mode");

    let reseal = "\"$E\" key reseal age-passphrase.age --passphrase-fd 3 --new-passphrase-fd 4 \
                  3< <(echo wrong) 4< <(echo new)";
    let before = fs::read(here.work_dir().join("age-passphrase.age")).unwrap();
    shell(&here, reseal).expect_refusal(2, "key.wrong-passphrase");
    assert_eq!(fs::read(here.work_dir().join("age-passphrase.age")).unwrap(), before);
    assert!(!here.work_dir().join("ran").exists());
    assert_eq!(here.json(&["ps"]), serde_json::json!([]));
}

#[test]
fn a_sealed_file_that_is_cut_off_or_holds_another_kind_of_key_is_refused() {
    if peers::missing(&["bash", "age", "age-keygen", "openssl"]) {
        return;
    }
    let here = installation();
    frozen(&here, "identity.txt");
    let run = |code| {
        let line = ["run", "--key", "key", "--identity", "identity.txt", "--", "touch", "ran"];
        here.run(&line).expect_refusal(REFUSED, code);
    };

    for (name, code) in [
        ("age-x25519.age", "key.not-pem"),
        ("age-x25519-binary.age", "key.not-age"),
        ("openssh-aes256-ctr.key", "key.not-pem"),
    ] {
        let whole = fs::read(here.work_dir().join(frozen(&here, name))).unwrap();
        for bytes in [40, 100, whole.len() / 2, whole.len() - 20] {
            here.file("key", &whole[..bytes]);
            run(code);
        }
    }
    let recipient = shell(&here, "age-keygen -y identity.txt").expect_status(0).stdout;
    for kind in ["rsa", "ec -pkeyopt ec_paramgen_curve:P-256", "x25519", "ed448"] {
        let make = format!(
            "umask 077; openssl genpkey -algorithm {kind} | age -r {} > key",
            recipient.trim()
        );
        shell(&here, &make).expect_status(0);
        run("key.algorithm");
    }
    assert!(!here.work_dir().join("ran").exists());
}

#[test]
fn neither_half_of_a_key_can_be_swapped_alone() {
    if peers::missing(&["bash"]) {
        return;
    }
    let here = installation();
    let make = |name: &str| {
        let line = format!("\"$E\" key new {name} --new-passphrase-fd 3 3< <(echo word)");
        shell(&here, &line).expect_status(0);
    };
    make("a.age");
    make("b.age");

    fs::copy(here.work_dir().join("b.age.pub"), here.work_dir().join("a.age.pub")).unwrap();

    let line = "\"$E\" run --key a.age --passphrase-fd 3 3< <(echo word) -- touch ran";
    shell(&here, line).expect_refusal(REFUSED, "public-file.other-key");
    assert!(!here.work_dir().join("ran").exists());
    let again = "\"$E\" key new a.age --new-passphrase-fd 3 3< <(echo word)";
    shell(&here, again).expect_refusal(2, "custody.exists");
}

#[test]
fn a_key_is_not_taken_from_where_others_can_replace_it() {
    let here = installation();
    let directory = here.work_dir().join("open");
    fs::create_dir(&directory).unwrap();
    frozen(&here, "pkcs8.pem");
    fs::rename(here.work_dir().join("pkcs8.pem"), directory.join("key.pem")).unwrap();
    let run = |key: &str| here.run(&["run", "--key", key, "--", "true"]);

    fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
    run("open/key.pem").expect_refusal(REFUSED, "key-file.directory");
    here.run(&["key", "new", "open/new.age"]).expect_refusal(1, "key-file.directory");
    // The path to the directory may have links in it, the key's own name may not.
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    symlink("open", here.work_dir().join("link")).unwrap();
    symlink("open/key.pem", here.work_dir().join("key.pem")).unwrap();
    run("link/key.pem").expect_status(0);
    run("key.pem").expect_refusal(REFUSED, "key-file.open");
}

#[test]
fn the_key_files_of_a_directory_are_listed_by_what_they_are() {
    let here = installation();
    for name in ["age-x25519.age", "openssh-aes256-ctr.key", "pkcs8.pem", "refused-des3.pem"] {
        frozen(&here, name);
    }
    here.file("notes.txt", "no key");
    here.file("empty", "");

    let listed = here.json(&["key", "list"]);

    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap();
        list.iter().map(|entry| entry["file"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        names(&listed["keys"]),
        ["./age-x25519.age", "./openssh-aes256-ctr.key", "./pkcs8.pem"]
    );
    assert_eq!(names(&listed["unusable"]), ["./refused-des3.pem"]);
    let public_key = "ed25519:19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    assert_eq!(listed["keys"][0]["public_key"], Value::Null);
    assert_eq!(listed["keys"][1]["public_key"], public_key);
    assert_eq!(listed["keys"][2]["public_key"], public_key);
}

#[test]
fn a_credential_of_systemd_opens_a_key() {
    let here = installation();
    frozen(&here, "age-x25519.age");
    frozen(&here, "openssh-aes256-ctr.key");
    let credentials = here.root().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let identity = fs::read(here.work_dir().join(frozen(&here, "identity.txt"))).unwrap();
    fs::write(credentials.join("evanesce.identity"), identity).unwrap();
    fs::write(credentials.join("evanesce.passphrase"), PASSPHRASE).unwrap();

    for key in ["age-x25519.age", "openssh-aes256-ctr.key"] {
        let run = here.evanesce(["run", "--key", key, "--", "true"]);
        run.env("CREDENTIALS_DIRECTORY", &credentials).output().expect_status(0);
    }
}

/// What is typed must not be shown, and the terminal has to be as it was after any end.
#[test]
fn a_passphrase_is_asked_for_at_the_terminal_which_is_put_back_whatever_happens() {
    if peers::missing(&["expect", "bash", "stty"]) {
        return;
    }
    let here = Installation::new(PROGRAM);
    frozen(&here, "openssh-aes256-ctr.key");
    // Where the launcher was killed, its worker takes a moment.
    let run = "$E run --quiet --key openssh-aes256-ctr.key -- true; echo status=$?; \
               silent() { stty -a | grep -qw -- '-echo'; }; \
               for _ in {1..100}; do silent || break; sleep 0.1; done; \
               silent && echo silent || echo shown";
    let terminal = |typed: &str| {
        let script =
            format!("set timeout 50\nspawn -noecho bash -c {{{run}}}\n{typed}\nexpect eof\n");
        let invocation = here.program("expect", ["-c", &script]);
        invocation.env("E", here.program_file()).output().expect_status(0).stdout
    };
    let asked = "expect \"Passphrase for openssh-aes256-ctr.key: \"\n";

    let right = terminal(&format!("{asked}send \"{PASSPHRASE}\\r\""));
    assert!(right.contains("status=0") && right.contains("shown"), "{right}");
    assert!(!right.contains("horse"), "{right}");
    let wrong = terminal(&format!("{asked}send \"wrong\\r\""));
    assert!(wrong.contains("[key.wrong-passphrase]") && wrong.contains("shown"), "{wrong}");
    let cancelled = terminal(&format!("{asked}send \"\\003\""));
    assert!(cancelled.contains("[load.interrupted]"), "{cancelled}");
    assert!(cancelled.contains("shown"), "{cancelled}");
    // The launcher dies: the worker puts the terminal back. The worker dies: the launcher does.
    // Of the launcher's children the signer's worker is the oldest.
    let launcher = "set launcher [exec pgrep -P [exp_pid]]\n";
    for (victim, pid) in [("launcher", "$launcher"), ("worker", "[exec pgrep -o -P $launcher]")] {
        let killed = terminal(&format!("{asked}{launcher}exec kill -9 {pid}\n"));
        assert!(killed.contains("shown"), "{victim}: {killed}");
    }
}
