//! Signed notes and checkpoints: C2SP signed-note v1.0.0 and tlog-checkpoint v1.0.0.

use std::fmt;

use base64ct::{Base64, Encoding as _};
use evanesce_ledger::{LedgerId, NotaryKey, P256Signature};
use evanesce_protocol::Digest;

use crate::merkle::NodeHash;

/// Bytes in a note that is read.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;

/// Signature lines of a note that is read.
pub const NOTE_SIGNATURES_MAX: usize = 64;

/// The name of a log: the first line of its checkpoints, and the name of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// The name of the local log of a ledger: a host name, and one that no server answers to.
    pub fn of_ledger(ledger: LedgerId) -> Self {
        let digits = ledger.to_string();
        Self(format!("{}.{LOCAL_DOMAIN}", &digits[..ORIGIN_DIGITS]))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the local log signs: the tree, and with it the ledger that the tree is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogCheckpoint {
    /// The log.
    pub origin: Origin,
    /// Entries in the tree.
    pub size: u64,
    /// The tree's root.
    pub root: NodeHash,
    /// The ledger as far as the tree covers it.
    pub ledger: LedgerEnd,
}

/// How a ledger ended when a checkpoint was made: an extension line of the checkpoint, signed with
/// it, so that one signature covers tree and chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerEnd {
    /// The ledger.
    pub id: LedgerId,
    /// The last row that was looked at for entries.
    pub rows: u64,
    /// The digest of that row.
    pub head: Digest,
}

impl LogCheckpoint {
    /// The text that is signed.
    pub fn to_text(&self) -> String {
        let Self { origin, size, root, ledger: LedgerEnd { id, rows, head } } = self;
        format!("{origin}\n{size}\n{}\n{LEDGER_LINE} {id} {rows} {head}\n", root.to_base64())
    }

    /// The signed note: the text, and a line for the signature by `key`.
    pub fn to_note(&self, key: &NotaryKey, signature: &P256Signature) -> String {
        let line = [key_hint(key).as_slice(), &signature.to_der()].concat();
        let line = Base64::encode_string(&line);
        format!("{}\n\u{2014} {} {line}\n", self.to_text(), self.origin)
    }

    /// Reads a note that one of `keys` signed.
    ///
    /// # Errors
    ///
    /// [`NoteError`].
    pub fn open(note: &str, keys: &[NotaryKey]) -> Result<(Self, NotaryKey), NoteError> {
        let note = Note::parse(note)?;
        let checkpoint = Self::parse(note.text).ok_or(NoteError::Checkpoint)?;
        let mut is_known = false;
        for line in note.signatures {
            if line.name != checkpoint.origin.as_str() {
                continue;
            }
            for key in keys.iter().filter(|key| key_hint(key) == line.hint) {
                is_known = true;
                let signature = P256Signature::from_der(&line.signature);
                if signature.is_ok_and(|found| key.verifies(note.text.as_bytes(), &found)) {
                    return Ok((checkpoint, key.clone()));
                }
            }
        }
        Err(match is_known {
            true => NoteError::Signature,
            false => NoteError::UnknownKey,
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let origin = Origin(lines.next()?.to_owned());
        let size = parse_size(lines.next()?)?;
        let root = NodeHash::from_base64(lines.next()?)?;
        let mut ledger = lines.next()?.strip_prefix(LEDGER_LINE)?.strip_prefix(' ')?.split(' ');
        let id: LedgerId = ledger.next()?.parse().ok()?;
        let rows = parse_size(ledger.next()?)?;
        let head = ledger.next()?.parse().ok()?;
        let is_whole = ledger.next().is_none() && lines.next().is_none();
        let is_of_ledger = origin == Origin::of_ledger(id);
        let ledger = LedgerEnd { id, rows, head };
        (is_whole && is_of_ledger).then_some(Self { origin, size, root, ledger })
    }
}

/// Size and root of any log's checkpoint, whoever signed it.
pub(crate) fn tree_head(note: &str) -> Option<(u64, NodeHash)> {
    let note = Note::parse(note).ok()?;
    let mut lines = note.text.split('\n').skip(1);
    Some((parse_size(lines.next()?)?, NodeHash::from_base64(lines.next()?)?))
}

/// The first four bytes of a P-256 key's id: SHA-256 of its SubjectPublicKeyInfo.
fn key_hint(key: &NotaryKey) -> [u8; HINT_BYTES] {
    let id = key.id().digest();
    let (hint, _) = id.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
    *hint
}

/// The log's key as one line, for tools that check notes (C2SP signed-note, "verifier keys"):
/// signature type 2 is ECDSA.
pub fn verifier_key(origin: &Origin, key: &NotaryKey) -> String {
    let typed = [&[ECDSA], key.spki()].concat();
    format!("{origin}+{}+{}", hex::encode(key_hint(key)), Base64::encode_string(&typed))
}

/// A note as it was parsed; no signature of it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// What is signed, with the newline that ends it.
    pub text: &'a str,
    /// Who says that they signed it.
    pub signatures: Vec<NoteSignature<'a>>,
}

/// One signature line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature<'a> {
    /// The signer's name.
    pub name: &'a str,
    /// Which of its keys.
    pub hint: [u8; HINT_BYTES],
    /// What it made, in the form of its key's type.
    pub signature: Vec<u8>,
    /// The line as it stands, without its newline.
    pub line: &'a str,
}

impl<'a> Note<'a> {
    /// Takes a note apart.
    ///
    /// # Errors
    ///
    /// [`NoteError::Parse`] for anything that the specification does not allow.
    pub fn parse(note: &'a str) -> Result<Self, NoteError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(NoteError::Parse { what: "it is too long" });
        }
        if note.chars().any(|c| c != '\n' && c.is_control()) {
            return Err(NoteError::Parse { what: "it has control characters" });
        }
        let parse = |what| NoteError::Parse { what };
        let end = note.rfind("\n\n").ok_or(parse("it has no empty line"))?;
        let (text, lines) = (&note[..=end], &note[end + 2..]);
        let lines = lines.strip_suffix('\n').ok_or(parse("its last line is cut off"))?;
        let signatures: Option<Vec<_>> = lines.split('\n').map(NoteSignature::parse).collect();
        let signatures = signatures.ok_or(parse("a signature line is malformed"))?;
        match signatures.len() <= NOTE_SIGNATURES_MAX {
            true => Ok(Self { text, signatures }),
            false => Err(parse("it has too many signatures")),
        }
    }
}

impl<'a> NoteSignature<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (name, value) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let value = Base64::decode_vec(value).ok()?;
        let (hint, signature) = value.split_first_chunk()?;
        let is_named = !name.is_empty() && !name.contains(['+', ' ']);
        let signed = !signature.is_empty();
        (is_named && signed).then(|| Self {
            name,
            hint: *hint,
            signature: signature.to_vec(),
            line,
        })
    }
}

/// Why a checkpoint is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// It is no signed note.
    #[error("not a signed note: {what}")]
    Parse {
        /// What is wrong.
        what: &'static str,
    },
    /// It is a note, and no checkpoint of a local log.
    #[error("the note is not a checkpoint of a local log")]
    Checkpoint,
    /// No known key says that it signed.
    #[error("the checkpoint is not signed by a key that is known here")]
    UnknownKey,
    /// A known key is named, and its signature does not verify.
    #[error("the checkpoint's signature does not verify")]
    Signature,
}

impl NoteError {
    /// A stable name for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Parse { .. } => "note.parse",
            Self::Checkpoint => "note.checkpoint",
            Self::UnknownKey => "note.unknown-key",
            Self::Signature => "note.signature",
        }
    }
}

/// Reads a decimal number in its one spelling.
fn parse_size(text: &str) -> Option<u64> {
    let size: u64 = text.parse().ok()?;
    (size.to_string() == text).then_some(size)
}

/// Bytes of a key that a signature line names it by.
pub const HINT_BYTES: usize = 4;

/// The signature type of ECDSA in C2SP signed-note.
const ECDSA: u8 = 2;

const LEDGER_LINE: &str = "evanesce-ledger";

/// Below it lie the names of local logs.
const LOCAL_DOMAIN: &str = "local-log.evanesce.dev";

/// Hexadecimal digits of a ledger's id in its log's name: a label of a host name has at most 63.
const ORIGIN_DIGITS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestNotary;

    fn checkpoint() -> LogCheckpoint {
        let id = LedgerId::from_bytes([0xab; 32]);
        LogCheckpoint {
            origin: Origin::of_ledger(id),
            size: 3,
            root: NodeHash::of_leaf(b"x"),
            ledger: LedgerEnd { id, rows: 12, head: Digest::of(b"row") },
        }
    }

    fn note(notary: &TestNotary) -> String {
        let signature = notary.sign(checkpoint().to_text().as_bytes());
        checkpoint().to_note(&notary.key, &signature)
    }

    #[test]
    fn a_checkpoint_is_read_back_with_the_key_that_signed_it() {
        let notary = TestNotary::new(1);

        let opened = LogCheckpoint::open(&note(&notary), std::slice::from_ref(&notary.key));
        assert_eq!(opened, Ok((checkpoint(), notary.key.clone())));
    }

    #[test]
    fn a_changed_or_foreign_checkpoint_is_refused_with_its_reason() {
        let (notary, other) = (TestNotary::new(1), TestNotary::new(2));
        let (note, keys) = (note(&notary), [notary.key.clone()]);

        let open = |note: &str| LogCheckpoint::open(note, &keys).unwrap_err();
        assert_eq!(open(&note.replacen("\n3\n", "\n4\n", 1)), NoteError::Signature);
        assert_eq!(open(&note.replacen("\n3\n", "\n03\n", 1)), NoteError::Checkpoint);
        assert_eq!(open(&note.replacen(" 12 ", " 13 ", 1)), NoteError::Signature);
        assert_eq!(open(&note.replacen("abab", "acac", 1)), NoteError::Checkpoint);
        assert_eq!(LogCheckpoint::open(&note, &[other.key]).unwrap_err(), NoteError::UnknownKey);
    }

    /// Witnesses put lines of their own under a note; they take nothing away from it.
    #[test]
    fn lines_of_witnesses_are_no_hindrance() {
        let notary = TestNotary::new(1);
        let line = format!("\u{2014} witness.example {}\n", Base64::encode_string(&[9; 76]));
        let cosigned = note(&notary) + &line;

        LogCheckpoint::open(&cosigned, std::slice::from_ref(&notary.key)).unwrap();
        let parsed = Note::parse(&cosigned).unwrap();
        assert_eq!((parsed.signatures.len(), parsed.signatures[1].name), (2, "witness.example"));
    }

    #[test]
    fn a_note_that_is_cut_off_anywhere_is_not_read() {
        let notary = TestNotary::new(1);
        let (note, keys) = (note(&notary), [notary.key.clone()]);
        for end in (0..note.len()).filter(|end| note.is_char_boundary(*end)) {
            assert!(LogCheckpoint::open(&note[..end], &keys).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn the_sigstore_parser_reads_the_same_tree() {
        let notary = TestNotary::new(1);
        let theirs = sigstore_types::Checkpoint::from_text(&note(&notary)).unwrap();

        assert_eq!(theirs.origin(), checkpoint().origin.as_str());
        assert_eq!(theirs.tree_size(), 3);
        assert_eq!(theirs.root_hash().as_bytes(), checkpoint().root.as_bytes());
        assert_eq!(tree_head(&note(&notary)), Some((3, checkpoint().root)));
    }
}
