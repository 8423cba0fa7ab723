//! The first screen of the README: sign a file, check it, let others check it.

use std::fs;

use evanesce_tests::peers;

use crate::installation;

#[test]
fn a_signed_file_verifies_and_the_verdict_says_what_became_of_the_key_and_what_was_not_checked() {
    // Given a file and nothing else,
    let here = installation();
    here.file("README.md", "# A project\n");

    // When it is signed and verified,
    let signed = here.run(&["sign", "README.md"]).expect_status(0);
    let verified = here.run(&["verify", "README.md"]).expect_status(0);

    // Then there is a receipt, a signature, its bundle and nothing else, and the verdict has both parts.
    assert!(signed.stdout.contains("destroyed"), "{signed:#?}");
    assert_eq!(here.files(), ["README.md", "README.md.sig", "README.md.sigstore.json"]);
    assert!(verified.stdout.contains("README.md: trusted"), "{verified:#?}");
    assert!(verified.stdout.contains("destroyed"), "{verified:#?}");
    let verdict = here.json(&["verify", "README.md"]);
    assert_eq!(verdict["verdict"], "trusted");
    assert_eq!(verdict["receipt"]["key"]["fate"], "destroyed");
    assert_eq!(verdict["receipt"]["key"]["origin"], "born-inside");
    assert!(verdict["not_checked"].is_array(), "{verdict:#}");
}

#[test]
fn ssh_keygen_accepts_the_signature_with_one_cert_authority_line() {
    if peers::missing(&["ssh-keygen"]) {
        return;
    }
    // Given a signed file and the line that `notary show` prints,
    let here = installation();
    here.file("release.tar", "the release");
    here.run(&["sign", "release.tar"]).expect_status(0);
    let line = here.run(&["notary", "show", "--allowed-signers"]).expect_status(0).stdout;
    here.file("allowed_signers", line);

    // When ssh-keygen is asked whether it holds for this file and for another,
    let check = "ssh-keygen -Y verify -f allowed_signers -I evanesce -n file -s release.tar.sig \
        < release.tar";
    let accepted = here.program("sh", ["-c", check]).output();
    here.file("release.tar", "another release");
    let refused = here.program("sh", ["-c", check]).output();

    // Then it says yes to the file and no to another.
    assert!(accepted.clone().expect_status(0).stdout.starts_with("Good"), "{accepted:#?}");
    assert_ne!(refused.status.code(), Some(0), "{refused:#?}");
}

#[test]
fn a_strangers_own_signature_is_intact_and_never_trusted() {
    if peers::missing(&["ssh-keygen"]) {
        return;
    }
    let here = installation();
    here.file("file", "contents");
    here.run(&["sign", "file", "--output", "ours.sig"]).expect_status(0);
    let sign =
        "ssh-keygen -q -t ed25519 -N '' -f stranger && ssh-keygen -Y sign -f stranger -n file file";
    here.program("sh", ["-c", sign]).output().expect_status(0);

    let verdict = here.run(&["verify", "file"]).expect_status(3);

    assert!(verdict.stdout.contains("signer unknown"), "{verdict:#?}");
}

#[test]
fn a_signature_of_another_installation_is_intact_and_its_notary_unknown_until_it_is_named() {
    // Given a file signed elsewhere, and an installation with a notary of its own,
    let (there, here) = (installation(), installation());
    there.file("file", "contents");
    there.run(&["sign", "file"]).expect_status(0);
    here.file("other", "other");
    here.run(&["sign", "other"]).expect_status(0);
    here.file("file", "contents");
    here.file("file.sig", fs::read(there.work_dir().join("file.sig")).unwrap());

    // When it is verified here, then with the other notary's public key,
    here.run(&["verify", "file"]).expect_status(3);
    let notary = there.state_dir().join("notary").join("notary.pub");
    here.file("there.pub", fs::read(notary).unwrap());
    let named = here.run(&["verify", "file", "--notary", "there.pub"]).expect_status(0);

    // Then it counts in the second case only, and the verdict says what it could not see.
    assert!(named.stdout.contains("not checked"), "{named:#?}");
}

#[test]
fn a_changed_file_and_a_changed_signature_are_invalid() {
    let here = installation();
    let file = here.file("file", "contents");
    here.run(&["sign", "file"]).expect_status(0);

    fs::write(&file, "Contents").unwrap();
    let changed = here.run(&["verify", "file"]).expect_status(1);
    assert!(changed.stdout.contains("invalid"), "{changed:#?}");

    fs::write(&file, "contents").unwrap();
    let signature = here.work_dir().join("file.sig");
    let text = fs::read_to_string(&signature).unwrap();
    for (cut, name) in [(0, "empty"), (text.len() / 2, "half"), (text.len() - 20, "cut")] {
        fs::write(&signature, &text[..cut]).unwrap();
        let verdict = here.run(&["verify", "file"]);
        assert_eq!(verdict.status.code(), Some(1), "{name}: {verdict:#?}");
    }
}

#[test]
fn a_signature_that_is_there_is_replaced_only_when_that_was_asked_for() {
    let here = installation();
    here.file("file", "contents");
    let there_already = here.file("file.sig", "precious");

    here.run(&["sign", "file"]).expect_refusal(2, "output.exists");
    assert_eq!(fs::read_to_string(&there_already).unwrap(), "precious");

    here.run(&["sign", "file", "--force"]).expect_status(0);
    here.run(&["verify", "file"]).expect_status(0);
    assert_eq!(here.files(), ["file", "file.sig", "file.sigstore.json"]);
}

#[test]
fn of_several_files_none_is_signed_when_one_cannot_be_read() {
    let here = installation();
    here.file("first", "contents");

    here.run(&["sign", "first", "second"]).expect_refusal(2, "input.read");

    assert_eq!(here.files(), ["first"]);
}

#[test]
fn signing_and_verifying_need_no_network() {
    if peers::not_root() || peers::missing(&["unshare"]) {
        return;
    }
    let here = installation();
    here.file("file", "contents");
    let apart = ["unshare", "--net", "--"];

    here.evanesce_under(&apart, ["sign", "file"]).output().expect_status(0);
    here.evanesce_under(&apart, ["verify", "file"]).output().expect_status(0);
    here.evanesce_under(&apart, ["audit", "verify"]).output().expect_status(0);
}
