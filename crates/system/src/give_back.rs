//! Returns the pages of the program's code that are not needed any more.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// Takes the program's code and constants, and its libraries', out of this process's memory; returns how many bytes were
/// mapped. Code that is used again comes back from the page cache, at the cost of a page fault for each 64 KiB.
///
/// To be called once the start is over: most of a program runs only then, and of what the kernel maps around it in good faith
/// much never runs at all.
///
/// # Errors
/// The system's, if the process can't look at itself.
pub fn give_back_code() -> io::Result<usize> {
    let maps = std::fs::read_to_string("/proc/self/smaps")?;
    let mut total = 0;
    for mapping in unchanged(&maps) {
        let Some(start) = NonNull::new(std::ptr::with_exposed_provenance_mut::<c_void>(mapping.start)) else { continue };
        // SAFETY: a private mapping of a file that can't be written and of which no page has been changed (none is
        // anonymous) yields the same bytes when it is read again, so nobody can tell the difference.
        unsafe { madvise(start, mapping.bytes, MmapAdvise::MADV_DONTNEED) }?;
        total += mapping.resident;
    }
    Ok(total)
}

#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    bytes: usize,
    resident: usize,
}

/// The private read-only mappings of files, as `/proc/self/smaps` shows them, that are as the file is.
fn unchanged(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some((name, value)) = line.split_once(':').filter(|(name, _)| !name.contains(' ')) {
            let kib = value.trim().strip_suffix(" kB").and_then(|number| number.parse::<usize>().ok());
            match (name, kib, &mut current) {
                ("Rss", Some(kib), Some(Mapping { resident, .. })) => *resident = kib * 1024,
                ("Anonymous", Some(0), mapping) => found.extend(mapping.take()),
                _ => {}
            }
        } else {
            current = header(line);
        }
    }
    found
}

/// `START-END r-xp OFFSET DEVICE INODE PATH`, if it is one that matters.
fn header(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let read_only = matches!(fields.next()?, "r-xp" | "r--p");
    let of_file = fields.nth(3)?.starts_with('/');
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (read_only && of_file).then_some(Mapping { start, bytes: end.checked_sub(start)?, resident: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_the_file_is() {
        let smaps = "1000-3000 r-xp 00000000 fe:00 77 /bin/sidegate\nRss:    8 kB\nAnonymous:   0 kB\nVmFlags: rd ex\n\
                     4000-5000 r--p 00003000 fe:00 77 /bin/sidegate\nRss:    4 kB\nAnonymous:   4 kB\n\
                     5000-6000 rw-p 00004000 fe:00 77 /bin/sidegate\nRss:    4 kB\nAnonymous:   0 kB\n\
                     7000-8000 r-xp 00000000 00:00 0 [vdso]\nRss:    4 kB\nAnonymous:   0 kB\n\
                     9000-a000 r--s 00000000 fe:00 78 /etc/file\nRss:    4 kB\nAnonymous:   0 kB\n";
        assert_eq!(unchanged(smaps), [Mapping { start: 0x1000, bytes: 0x2000, resident: 8192 }]);
    }

    #[test]
    fn the_program_goes_on() {
        assert!(give_back_code().unwrap() > 64 * 1024);
        let after: usize = unchanged(&std::fs::read_to_string("/proc/self/smaps").unwrap()).iter().map(|m| m.resident).sum();
        assert!(after > 0, "this test itself runs from there");
    }
}
