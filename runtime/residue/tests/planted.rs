//! Whatever is planted is found, by its name and at its place.

use std::io::Read;

use evanesce_residue::{Canary, Form, Forms, Fragment, ScanReport, Scanner, unwatched};

/// The chunk that the scanner reads at a time is far below this, so that borders are crossed.
const HAYSTACK_BYTES: usize = 400_000;

fn canary() -> Canary {
    Canary::random().expect("the kernel has entropy")
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    getrandom::fill(&mut noise).expect("the kernel has entropy");
    noise
}

fn scan(scanner: &Scanner, data: impl Read) -> ScanReport {
    scanner.scan_reader("planted", 0, data, &mut unwatched()).expect("a slice can be read")
}

/// The hits as form, offset in the form, bytes, offset in the data.
fn summary(report: &ScanReport) -> Vec<(&str, u32, u32, u64)> {
    report
        .hits
        .iter()
        .map(|hit| (hit.form.as_str(), hit.form_offset, hit.bytes, hit.offset))
        .collect()
}

fn searched_offsets(form: &Form) -> impl Iterator<Item = usize> {
    (0..form.bytes().len()).filter(|&offset| form.is_searched(offset))
}

/// All forms one after the other, at every alignment, with noise between: a form that the scanner
/// does not find fails here by name.
#[test]
fn every_form_is_found_by_its_name_at_every_alignment() {
    let forms = canary().forms(&[b"one", b"two"]);
    let scanner = Scanner::new(&forms);
    for alignment in 0..16 {
        let mut data = noise(alignment);
        let mut planted = Vec::new();
        for form in &forms {
            planted.push((form, data.len() as u64));
            data.extend(form.bytes());
            data.extend(noise(16 - data.len() % 16 + alignment));
        }

        let report = scan(&scanner, &data[..]);

        for (form, offset) in planted {
            let hit = report.hits.iter().find(|hit| {
                // Noise before a form can happen to continue it, never shorten it.
                hit.form == form.name()
                    && hit.offset == offset
                    && hit.bytes as usize == form.bytes().len()
                    && hit.fragments as usize == form.fragments()
            });
            assert!(hit.is_some(), "{} at alignment {alignment} was not found", form.name());
        }
        assert_eq!(report.bytes_scanned, data.len() as u64);
    }
}

/// A leak may be as short as one fragment, so each is planted alone, at all positions modulo 16.
#[test]
fn every_single_fragment_of_every_form_is_found_at_every_alignment() {
    let forms = canary().forms(&[b"message"]);
    let scanner = Scanner::new(&forms);
    let spacing = 48;
    let mut fragments_planted = 0;
    for form in &forms {
        let length = form.fragment().bytes();
        let offsets: Vec<usize> = searched_offsets(form).collect();
        let mut data = vec![0; offsets.len() * 16 * spacing + 64];
        let mut expected = Vec::new();
        for (index, (offset, alignment)) in offsets
            .iter()
            .flat_map(|offset| (0..16).map(move |alignment| (offset, alignment)))
            .enumerate()
        {
            let start = index * spacing + 16 + alignment;
            data[start..start + length].copy_from_slice(&form.bytes()[*offset..offset + length]);
            expected.push((*offset, start));
        }

        let mut found = ScanReport::default();
        for (chunk, start) in data.chunks(spacing * 256).zip((0..).step_by(spacing * 256)) {
            // In parts, since a report lists a limited number of hits.
            let part = scanner.scan_reader("part", start, chunk, &mut unwatched()).unwrap();
            found.hits_total += part.hits_total;
            found.hits.extend(part.hits);
        }
        for (offset, start) in &expected {
            let hit = found.hits.iter().find(|hit| {
                let first = hit.offset..=hit.offset + u64::from(hit.bytes) - length as u64;
                hit.form == form.name() && first.contains(&(*start as u64))
            });
            assert!(hit.is_some(), "{} from {offset}, planted at {start}", form.name());
        }
        fragments_planted += offsets.len();
    }
    assert_eq!(fragments_planted, forms.fragments());
}

#[test]
fn a_form_that_lies_across_the_border_of_two_chunks_is_one_hit() {
    let canary = canary();
    let scanner = Scanner::new(&canary.forms(&[]));
    let mut haystack = vec![0x55; HAYSTACK_BYTES];
    // Around each multiple of 64 KiB, of which some are borders, and at both ends.
    let border = 65_536;
    let starts = (border - 80..border + 240)
        .step_by(7)
        .flat_map(|near| (0..5).map(move |at| at * border + near));
    for start in starts.chain([0, HAYSTACK_BYTES - 32]) {
        haystack[start..start + 32].copy_from_slice(canary.seed());

        let report = scan(&scanner, &haystack[..]);

        assert_eq!(summary(&report), [("seed", 0, 32, start as u64)]);
        haystack[start..start + 32].fill(0x55);
    }
}

#[test]
fn a_reader_that_gives_one_byte_at_a_time_changes_nothing() {
    struct Dribble<'a>(&'a [u8]);
    impl Read for Dribble<'_> {
        fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
            let count = room.len().min(1);
            self.0.read(&mut room[..count])
        }
    }
    let canary = canary();
    let scanner = Scanner::new(&canary.forms(&[]));
    let mut haystack = vec![0x55; HAYSTACK_BYTES];
    haystack[131_060..131_092].copy_from_slice(canary.seed());

    let report = scan(&scanner, Dribble(&haystack));

    assert_eq!(summary(&report), [("seed", 0, 32, 131_060)]);
    assert_eq!(report.bytes_scanned, HAYSTACK_BYTES as u64);
}

#[test]
fn a_fragment_at_the_very_end_of_the_data_is_found_and_one_that_is_cut_short_is_not() {
    let canary = canary();
    let scanner = Scanner::new(&canary.forms(&[]));
    for before in 0..16 {
        let mut data = vec![0x55; before];
        data.extend(&canary.seed()[..8]);
        assert_eq!(scan(&scanner, &data[..]).fragments_found, 1, "{before} bytes before");

        data.pop();
        assert_eq!(summary(&scan(&scanner, &data[..])), [], "{before} bytes before");
    }
}

#[test]
fn random_data_holds_nothing_even_for_a_key_with_many_signatures() {
    let messages: Vec<[u8; 4]> = (0..100_u32).map(u32::to_le_bytes).collect();
    let messages: Vec<&[u8]> = messages.iter().map(|message| &message[..]).collect();
    let scanner = Scanner::new(&canary().forms(&messages));

    let report = scan(&scanner, &noise(64 << 20)[..]);

    assert_eq!(summary(&report), []);
    assert!(report.found_nothing());
    assert_eq!(report.bytes_scanned, 64 << 20);
}

#[test]
fn the_key_of_another_canary_is_not_a_hit() {
    let other = canary().forms(&[b"message"]);
    let data: Vec<u8> = other.iter().flat_map(|form| form.bytes().to_vec()).collect();
    assert_eq!(summary(&scan(&Scanner::new(&canary().forms(&[b"message"])), &data[..])), []);
}

/// Key files as they are written, found through the forms of what they contain.
#[test]
fn key_files_are_found_by_the_text_of_the_seed_in_them() {
    let canary = canary();
    let scanner = Scanner::new(&canary.forms(&[]));
    let names = |text: &str| -> Vec<String> {
        scan(&scanner, text.as_bytes()).hits.into_iter().map(|hit| hit.form).collect()
    };

    let keypair = ssh_key::private::Ed25519Keypair::from_seed(canary.seed());
    let openssh = ssh_key::PrivateKey::from(keypair).to_openssh(ssh_key::LineEnding::LF).unwrap();
    assert_eq!(names(&openssh), ["seed.base64-2"]);

    assert_eq!(names(&canary.to_pkcs8_pem()), ["seed.base64-1"]);

    let hexadecimal = hex::encode(canary.seed()) + &hex::encode(canary.public_key());
    assert_eq!(names(&hexadecimal), ["seed.hex-lower"]);
}

#[test]
fn hits_beyond_the_list_are_still_counted() {
    let canary = canary();
    let scanner = Scanner::new(&canary.forms(&[]));
    let copies = ScanReport::HITS_LISTED_MAX + 10;
    let data = canary.seed().repeat(copies);

    let mut report = scan(&scanner, &data[..]);

    let fragments_of_a_seed = 25;
    assert_eq!(report.hits_total, copies as u64);
    assert_eq!(report.fragments_found, (copies * fragments_of_a_seed) as u64);
    assert_eq!(report.hits.len(), ScanReport::HITS_LISTED_MAX);

    report.merge(scan(&scanner, &data[..]));
    assert_eq!(report.hits_total, 2 * copies as u64);
    assert_eq!(report.hits.len(), ScanReport::HITS_LISTED_MAX);
    assert_eq!(report.sources.len(), 2);
}

#[test]
fn a_report_says_in_json_which_form_lies_where() {
    let canary = canary();
    let scanner = Scanner::new(&canary.forms(&[]));
    let report =
        scanner.scan_reader("dump", 0x1000, &canary.seed()[..9], &mut unwatched()).unwrap();

    let json = serde_json::to_value(&report).unwrap();

    let hit = serde_json::json!({
        "form": "seed", "form_offset": 0, "bytes": 9, "fragments": 2,
        "source": "dump", "place": "dump", "offset": 0x1000,
    });
    assert_eq!(json["hits"], serde_json::json!([hit]));
    assert_eq!(json["bytes_scanned"], 9);
}

/// Only forms with too little of the key in eight bytes may ask for sixteen.
#[test]
fn only_hexadecimal_text_and_small_digits_need_long_fragments() {
    let forms: Forms = canary().forms(&[b"message"]);
    for form in &forms {
        let is_sparse = form.name().contains("hex")
            || form.name().ends_with("radix-16")
            || form.name().ends_with("radix-32");
        assert_eq!(form.fragment() == Fragment::Sixteen, is_sparse, "{}", form.name());
    }
}
