//! The only module that prints. Results go to standard output, talk to standard error.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::errors::{Coded, CommandError, ErrorRecord};
use crate::exit::Exit;

/// What a command found or did: one value behind both outputs.
///
/// `--json` prints the value as one line of JSON; otherwise [`Self::render`] and [`Self::talk`]
/// print it for people.
pub trait Report: Serialize {
    /// How the command ends.
    fn exit(&self) -> Exit {
        Exit::Success
    }

    /// Writes the result.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    fn render(&self, out: &mut dyn Write) -> io::Result<()>;

    /// Writes what is worth saying beside the result.
    ///
    /// # Errors
    ///
    /// Those of `err`.
    fn talk(&self, _err: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    /// Writes the value as JSON: one line, unless the command says otherwise.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        out.write_all(b"\n")
    }

    /// Which stream JSON goes to. Standard output, unless that belongs to somebody else.
    fn json_stream(&self) -> Stream {
        Stream::Output
    }
}

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// What output is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// People.
    Text,
    /// Programs (`--json`).
    Json,
}

/// Prints reports and errors. Colours only on a terminal, and never where `NO_COLOR` is set.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    format: Format,
}

impl Ui {
    /// Prints in this format.
    pub const fn new(format: Format) -> Self {
        Self { format }
    }

    /// Says one line while a command is at work. Programs are not talked to.
    pub fn say(&self, line: &str) {
        if self.format == Format::Text {
            // Talk that nobody can hear is no reason to stop.
            writeln!(anstream::stderr(), "{line}").unwrap_or(());
        }
    }

    /// What output is for.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Says one line on standard output at once: for a process that waits for it.
    pub fn answer(&self, line: &str) {
        let mut out = io::stdout().lock();
        // Nobody waits where nobody can hear.
        writeln!(out, "{line}").and_then(|()| out.flush()).unwrap_or(());
    }

    /// Draws one line of standard error anew, where it is a terminal.
    pub fn redraw(&self, line: &str) {
        let mut err = anstream::stderr().lock();
        // Back to the start of the line, and erase it (ECMA-48, EL). Talk that nobody can hear is
        // no reason to stop.
        write!(err, "\r\x1b[2K{line}").and_then(|()| err.flush()).unwrap_or(());
    }

    /// Standard output itself, for a result that is bytes and not text.
    pub fn raw_output(&self) -> io::StdoutLock<'static> {
        io::stdout().lock()
    }

    /// Prints what a command returned, and says how the process ends. `failed` gives the exit of
    /// an error.
    pub fn finish<R: Report>(
        &self,
        result: Result<R, CommandError>,
        failed: impl Fn(&CommandError) -> Exit,
    ) -> Exit {
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                self.print_error(&error);
                return failed(&error);
            }
        };
        match self.print_report(&report) {
            Ok(()) => report.exit(),
            // The reader has seen enough, as `head` has.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => report.exit(),
            Err(source) => {
                let error = PrintError { source }.into();
                self.print_error(&error);
                failed(&error)
            }
        }
    }

    /// Prints an error, its causes and what to do.
    pub fn print_error(&self, error: &CommandError) {
        let mut err = anstream::stderr().lock();
        // An error that cannot be printed is still in the exit status.
        self.write_failure(&error.to_record(), &mut err).unwrap_or(());
    }

    fn print_report<R: Report>(&self, report: &R) -> io::Result<()> {
        match (self.format, report.json_stream()) {
            (Format::Json, Stream::Output) => {
                flushed(&mut io::stdout().lock(), |out| report.write_json(out))
            }
            (Format::Json, Stream::Error) => {
                flushed(&mut io::stderr().lock(), |out| report.write_json(out))
            }
            (Format::Text, _) => {
                flushed(&mut anstream::stdout().lock(), |out| report.render(out))?;
                flushed(&mut anstream::stderr().lock(), |err| report.talk(err))
            }
        }
    }

    fn write_failure(&self, error: &ErrorRecord, err: &mut dyn Write) -> io::Result<()> {
        match self.format {
            Format::Text => write_error(error, err),
            Format::Json => {
                serde_json::to_writer(&mut *err, &Failure { error })?;
                writeln!(err)
            }
        }
    }
}

/// An error as a program reads it.
#[derive(Serialize)]
struct Failure<'a> {
    error: &'a ErrorRecord,
}

/// Writes an error, its causes and what to do.
///
/// # Errors
///
/// Those of `err`.
pub fn write_error(error: &ErrorRecord, err: &mut dyn Write) -> io::Result<()> {
    let ErrorRecord { code, message, causes, hint, .. } = error;
    write!(err, "{BAD}error{BAD:#}: {message}")?;
    causes.iter().try_for_each(|cause| write!(err, ": {cause}"))?;
    writeln!(err, " {FAINT}[{code}]{FAINT:#}")?;
    match hint {
        Some(hint) => writeln!(err, "{HINT}hint{HINT:#}: {hint}"),
        None => Ok(()),
    }
}

/// Writes through a buffer, and all of it: a report in one write is not cut by another process.
fn flushed(
    stream: &mut dyn Write,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    write(&mut buffer)?;
    stream.write_all(&buffer)?;
    stream.flush()
}

/// The result could not be printed.
#[derive(Debug, thiserror::Error)]
#[error("the result could not be printed")]
struct PrintError {
    #[source]
    source: io::Error,
}

impl Coded for PrintError {
    fn code(&self) -> &'static str {
        "output.print"
    }
}

/// What holds.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// What does not.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// What is not known.
pub const UNSURE: Style = AnsiColor::Yellow.on_default().bold();
/// What to do.
pub const HINT: Style = AnsiColor::Cyan.on_default().bold();
/// What is there for those who look.
pub const FAINT: Style = Style::new().dimmed();
