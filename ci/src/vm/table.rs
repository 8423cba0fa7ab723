//! Rows as a table: one line for each case, moment and store, with both settings side by side.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::error::VmError;
use super::machine::Store;
use super::row::{Expected, Row};

/// The table in Markdown.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut table = String::from(
        "| case | moment | searched | `init_on_free=0` | `init_on_free=1` | must be |\n\
         |---|---|---|---|---|---|\n",
    );
    let mut done = Vec::new();
    for row in rows {
        let line = (row.case, row.moment, row.store);
        if done.contains(&line) {
            continue;
        }
        done.push(line);
        let of = |setting: bool| {
            rows.iter().find(|other| {
                (other.case, other.moment, other.store) == line && other.init_on_free == setting
            })
        };
        let (off, on) = (of(false), of(true));
        let store = match row.store {
            Store::Memory => "memory",
            Store::Disk => "disk",
            Store::Swap => "swap",
            Store::Dump => "dump",
        };
        writeln!(
            table,
            "| {} | {} | {store} | {} | {} | {} |",
            row.case,
            row.moment,
            found(off),
            found(on),
            expected(off, on)
        )
        .expect("a string takes everything");
    }
    table
}

/// Writes the table between its marks in a document.
pub(crate) fn put_into(path: &Path, table: &str) -> Result<(), VmError> {
    let text = fs::read_to_string(path).map_err(VmError::io(format!("read {}", path.display())))?;
    let text = replaced(&text, table).ok_or_else(|| VmError::NoMarks {
        path: path.to_owned(),
        begin: BEGIN,
        end: END,
    })?;
    fs::write(path, text).map_err(VmError::io(format!("write {}", path.display())))
}

fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

/// `2 of 4 keys`; of one key, in how many pages.
fn found(row: Option<&Row>) -> String {
    let Some(row) = row else {
        return "not run".into();
    };
    let mark = if row.holds { "" } else { " **wrong**" };
    let pages = |count| if count == 1 { "1 page".to_owned() } else { format!("{count} pages") };
    match (row.keys, row.keys_found) {
        (_, 0) => format!("0{mark}"),
        (1, _) => format!("{}{mark}", pages(row.pages)),
        (keys, found) => format!("{found} of {keys} keys, {}{mark}", pages(row.pages)),
    }
}

fn expected(off: Option<&Row>, on: Option<&Row>) -> String {
    let word = |row: &Row| match row.expected {
        Expected::Nothing => "**0**",
        Expected::Every | Expected::Some => "found",
        Expected::Unclaimed => "not claimed",
    };
    match (off.map(word), on.map(word)) {
        (Some(off), Some(on)) if off != on => format!("{off}; {on}"),
        (Some(word), _) | (None, Some(word)) => word.to_owned(),
        (None, None) => String::new(),
    }
}

const BEGIN: &str = "<!-- table of `cargo xtask vm --table`: begin -->";
const END: &str = "<!-- table of `cargo xtask vm --table`: end -->";

#[cfg(test)]
mod tests {
    use super::*;

    fn row(init_on_free: bool, expected: Expected, keys_found: usize) -> Row {
        Row {
            case: "SIGKILL",
            moment: "after",
            store: Store::Memory,
            init_on_free,
            expected,
            holds: true,
            keys: 4,
            keys_found,
            pages: 3 * keys_found,
            hits: 0,
            bytes_scanned: 1,
            forms: Vec::new(),
        }
    }

    #[test]
    fn both_settings_stand_side_by_side() {
        let rows = [row(false, Expected::Unclaimed, 2), row(true, Expected::Nothing, 0)];

        let table = markdown(&rows);

        let line = "| SIGKILL | after | memory | 2 of 4 keys, 6 pages | 0 | not claimed; **0** |";
        assert_eq!(table.lines().nth(2), Some(line), "{table}");
        assert_eq!(table.lines().count(), 3, "{table}");
    }

    #[test]
    fn a_row_that_does_not_hold_is_marked() {
        let wrong = Row { holds: false, ..row(true, Expected::Nothing, 1) };

        assert!(markdown(&[wrong]).contains("1 of 4 keys, 3 pages **wrong**"));
    }

    #[test]
    fn the_table_is_replaced_and_everything_around_it_stays() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");

        let text = replaced(&text, "new\n").unwrap();

        assert_eq!(text, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(replaced("no marks", "new\n"), None);
    }
}
