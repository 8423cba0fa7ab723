//! The journal of requests: the worker appends, the launcher reads behind it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use evanesce_protocol::commitment::RequestCommitment;
use evanesce_protocol::{Digest, PublicKey};

/// The launcher's side of a journal: 32 bytes a request, in the order they were signed.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    commitment: RequestCommitment,
}

impl Journal {
    /// Makes an empty journal and returns the worker's descriptor for it, which can only append.
    pub(crate) fn create(path: &Path, key: &PublicKey) -> io::Result<(Self, File)> {
        let appending = File::options().append(true).create_new(true).mode(0o600).open(path)?;
        Ok((Self::open(path, RequestCommitment::new(key))?, appending))
    }

    /// Reads on after the requests that `commitment` covers.
    pub(crate) fn open(path: &Path, commitment: RequestCommitment) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, commitment })
    }

    /// Up to `max` requests that were not read before, and the number of the first of them.
    pub(crate) fn next(&mut self, max: usize) -> io::Result<Option<(u64, Vec<Digest>)>> {
        let mut bytes = vec![0; max * Digest::BYTES];
        let offset = self.commitment.count() * Digest::BYTES as u64;
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // A cut-off record at the end is of a request that was never answered.
        let requests: Vec<_> =
            bytes[..filled].as_chunks().0.iter().copied().map(Digest::from_bytes).collect();
        if requests.is_empty() {
            return Ok(None);
        }
        let first = self.commitment.count() + 1;
        requests.iter().for_each(|request| self.commitment.extend(request));
        Ok(Some((first, requests)))
    }

    /// Everything that was read so far.
    pub(crate) const fn commitment(&self) -> RequestCommitment {
        self.commitment
    }
}

/// How many requests a journal holds, for those who only count.
pub(crate) fn count(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len() / Digest::BYTES as u64)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn requests_are_read_once_in_order_and_a_cut_off_one_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let key = PublicKey::from_bytes([7; 32]);
        let (mut journal, mut worker) =
            Journal::create(&directory.path().join("requests"), &key).unwrap();
        let requests = [Digest::of(b"1"), Digest::of(b"2"), Digest::of(b"3")];
        requests.iter().for_each(|request| worker.write_all(request.as_bytes()).unwrap());
        worker.write_all(&[0; 31]).unwrap();

        assert_eq!(journal.next(2).unwrap(), Some((1, requests[..2].to_vec())));
        assert_eq!(journal.next(2).unwrap(), Some((3, requests[2..].to_vec())));
        assert_eq!(journal.next(2).unwrap(), None);

        let mut expected = RequestCommitment::new(&key);
        requests.iter().for_each(|request| expected.extend(request));
        assert_eq!(journal.commitment(), expected);
    }
}
