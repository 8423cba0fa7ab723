//! Rows as they stand: for those who copy or index them and must not change a byte.

use std::fs::File;
use std::io::{self, Read as _};

use serde::Deserialize;

use evanesce_protocol::Digest;

use crate::dsse::Envelope;
use crate::notary::NotaryKey;
use crate::read::{ReadError, Reader};
use crate::row::Header;
use crate::segment::{LineEnd, Segment, Walk};
use crate::timestamp::Timestamp;

/// One row as it stands in its segment.
#[derive(Clone, Copy, Debug)]
pub struct RawRow<'a> {
    /// Its number.
    pub seq: u64,
    /// Its digest.
    pub digest: Digest,
    /// When it happened, by the clock of whoever appended it.
    pub at: Timestamp,
    /// What happened, also where this version does not know the event.
    pub event: &'a str,
    /// The line without its newline.
    pub text: &'a str,
}

impl RawRow<'_> {
    /// The signed statement that the row holds, whatever its event: the member `envelope`, or of a
    /// `notary` row the member `rotation`. `None` where there is none in the form of this version.
    pub fn envelope(&self) -> Option<Envelope> {
        #[derive(Deserialize)]
        struct Holder {
            #[serde(alias = "rotation")]
            envelope: Envelope,
        }
        let member = match self.event {
            "notary" => "\"rotation\":",
            _ => "\"envelope\":",
        };
        if !self.text.contains(member) {
            return None;
        }
        serde_json::from_str::<Holder>(self.text).ok().map(|holder| holder.envelope)
    }

    /// The key that a `notary` row introduces.
    pub fn notary_key(&self) -> Option<NotaryKey> {
        #[derive(Deserialize)]
        struct Holder {
            public_key: NotaryKey,
        }
        if self.event != "notary" {
            return None;
        }
        serde_json::from_str::<Holder>(self.text).ok().map(|holder| holder.public_key)
    }
}

/// Walks over rows without taking them apart. Made by [`Reader::raw_rows_from`].
#[derive(Debug)]
pub struct RawRows<'a> {
    from: u64,
    walk: Walk<'a>,
    /// Where in the first segment the walk began.
    began: u64,
}

impl Reader {
    /// The rows from number `seq` on, as they stand. Finds the first without reading all before it.
    ///
    /// # Errors
    ///
    /// [`ReadError::Io`].
    pub fn raw_rows_from(&self, seq: u64) -> Result<RawRows<'_>, ReadError> {
        let after = self.segments.partition_point(|(segment, _)| segment.first <= seq);
        let segments = &self.segments[after.saturating_sub(1)..];
        let began = match segments.first() {
            Some((segment, bytes)) => {
                segment.near(*bytes, seq).map_err(|source| segment.unread(source))?
            }
            None => 0,
        };
        Ok(RawRows { from: seq, walk: Walk::from_offset(segments, began), began })
    }

    /// Waits until every row from number `seq` on that this reader knows of is on the disk.
    ///
    /// # Errors
    ///
    /// [`ReadError::Io`].
    pub fn sync_from(&self, seq: u64) -> Result<(), ReadError> {
        let after = self.segments.partition_point(|(segment, _)| segment.first <= seq);
        for (segment, _) in &self.segments[after.saturating_sub(1)..] {
            let synced = File::open(&segment.path).and_then(|file| file.sync_data());
            synced.map_err(|source| segment.unread(source))?;
        }
        Ok(())
    }
}

impl RawRows<'_> {
    /// The next row; `None` behind the last, of which a torn one is none.
    ///
    /// # Errors
    ///
    /// [`ReadError`] where a segment cannot be read or a line is no row.
    pub fn next_row(&mut self) -> Result<Option<RawRow<'_>>, ReadError> {
        let position = loop {
            let Some(position) = self.walk.advance()? else {
                return Ok(None);
            };
            match position.end {
                LineEnd::Newline => {}
                LineEnd::Torn => return Ok(None),
                LineEnd::Segment | LineEnd::TooLong => return Err(self.bad(position)),
            }
            match Header::parse(self.walk.line()) {
                Some(header) if header.seq < self.from => {}
                Some(_) => break position,
                None => return Err(self.bad(position)),
            }
        };
        let Ok(text) = str::from_utf8(self.walk.line()) else {
            return Err(self.bad(position));
        };
        let header = Header::parse(text.as_bytes()).expect("it was parsed above");
        let (seq, at, event) = (header.seq, header.at, header.event);
        Ok(Some(RawRow { seq, digest: Digest::of(text.as_bytes()), at, event, text }))
    }

    fn bad(&self, position: crate::segment::Position) -> ReadError {
        let segment = self.walk.segment(position);
        let before = match position.segment {
            0 => newlines_before(segment, self.began).unwrap_or(0),
            _ => 0,
        };
        segment.bad_row(before + position.line)
    }
}

/// For a message: how many lines end before byte `end`.
fn newlines_before(segment: &Segment, end: u64) -> io::Result<u64> {
    let mut bytes = io::BufReader::new(File::open(&segment.path)?).take(end).bytes();
    bytes.try_fold(0, |count, byte| Ok(count + u64::from(byte? == b'\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(event: &'a str, text: &'a str) -> RawRow<'a> {
        let at = Timestamp::from_unix_ms(0);
        RawRow { seq: 1, digest: Digest::of(text.as_bytes()), at, event, text }
    }

    /// What an old version takes from a row must not depend on whether it knows the event.
    #[test]
    fn an_envelope_is_found_in_an_event_of_a_later_version() {
        let envelope = r#"{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":"sha256:0000000000000000000000000000000000000000000000000000000000000000","sig":"MAYCAQECAQE="}]}"#;
        let text = format!(r#"{{"event":"rinsed","envelope":{envelope}}}"#);
        assert_eq!(row("rinsed", &text).envelope().unwrap().payload_unverified(), b"{}");

        let rotation = format!(r#"{{"event":"notary","rotation":{envelope}}}"#);
        assert!(row("notary", &rotation).envelope().is_some());
        assert!(row("rinsed", r#"{"event":"rinsed","envelope":7}"#).envelope().is_none());
        assert!(row("rinsed", r#"{"event":"rinsed"}"#).envelope().is_none());
    }
}
