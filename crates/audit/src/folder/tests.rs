//! A writer starts in a folder with files of any origin.

use std::os::unix::fs::symlink;

use super::*;
use crate::line::tests::lines;

/// A folder whose log is `lines`.
fn folder_with(lines: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(file_name(1));
    std::fs::write(&file, lines).unwrap();
    (folder, file)
}

fn left(folder: &Path) -> LeftBehind {
    Folder::open(folder, false).unwrap().2.unwrap()
}

#[test]
fn a_hole_of_a_hundred_gigabytes_is_moved_aside_without_being_read() {
    const HOLE: u64 = 100 << 30;
    for good in [lines(1, 3), Vec::new()] {
        let (folder, file) = folder_with(&good);
        OpenOptions::new().write(true).open(&file).unwrap().set_len(HOLE).unwrap();
        let left = left(folder.path());
        assert_eq!(left.bytes_cut, HOLE - good.len() as u64);
        let note = folder.path().join(left.side_note.unwrap());
        assert_eq!(note.metadata().unwrap().len(), HOLE);
        assert_eq!(std::fs::read(file).unwrap_or_default(), good);
    }
}

#[test]
fn a_line_that_is_too_long_ends_the_log() {
    let good = lines(1, 2);
    let (folder, file) = folder_with(&[&good, "x".repeat(line::LONGEST + 1).as_bytes(), b"\n"].concat());
    let (_, position, left) = Folder::open(folder.path(), false).unwrap();
    assert_eq!((position.seq, left.unwrap().bytes_cut), (3, line::LONGEST as u64 + 2));
    assert_eq!(std::fs::read(file).unwrap(), good);
}

#[test]
fn a_side_note_replaces_nothing() {
    let good = lines(1, 2);
    let (folder, file) = folder_with(&good);
    let elsewhere = folder.path().join("elsewhere");
    std::fs::write(&elsewhere, "precious").unwrap();
    let note = format!("{}.cut-at-{}", file_name(1), good.len());
    symlink(&elsewhere, folder.path().join(&note)).unwrap();
    for number in [2, 3] {
        let torn = format!("torn {number}");
        std::fs::write(&file, [&good, torn.as_bytes()].concat()).unwrap();
        let left = left(folder.path());
        assert_eq!(left.side_note.as_deref(), Some(format!("{note}.{number}").as_str()));
        assert_eq!(std::fs::read_to_string(folder.path().join(left.side_note.unwrap())).unwrap(), torn);
    }
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "precious");
}

#[test]
fn a_pipe_with_the_name_of_a_file_hinders_nobody() {
    let (folder, file) = folder_with(&lines(1, 2));
    nix::unistd::mkfifo(&folder.path().join(file_name(3)), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/dev/zero", folder.path().join(file_name(4))).unwrap();
    assert_eq!(files(folder.path()).unwrap(), [file]);
    let (mut open, position, _) = Folder::open(folder.path(), false).unwrap();
    assert_eq!(position.seq, 3);
    // The name of the next file is taken by it.
    open.begin(position).unwrap();
}

#[test]
fn the_lock_can_not_be_deleted() {
    let (folder, file) = folder_with(&lines(1, 2));
    let first = Folder::open(folder.path(), false).unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert!(matches!(Folder::open(folder.path(), false), Err(FolderError::Taken(_))));
    drop(first);
    assert!(Folder::open(folder.path(), false).is_ok() && !file.exists());
}

#[test]
fn a_child_that_is_being_started_does_not_keep_the_lock() {
    let folder = tempfile::tempdir().unwrap();
    let (first, ..) = Folder::open(folder.path(), false).unwrap();
    // What fork leaves to it until exec closes it.
    let _inherited = first.names.try_clone().unwrap();
    drop(first);
    Folder::open(folder.path(), false).unwrap();
}

#[test]
fn a_number_at_the_end_of_all_numbers_is_no_position() {
    let good = lines(1, 2);
    let forged = String::from_utf8(lines(1, 1)).unwrap().replace("\"seq\":1,", "\"seq\":18446744073709551615,");
    let (folder, _) = folder_with(&good);
    std::fs::write(folder.path().join(file_name(3)), forged).unwrap();
    let (_, position, left) = Folder::open(folder.path(), false).unwrap();
    assert!(position.seq == 3 && left.is_some());
}

/// What a file says of the one before, where its name says the same.
#[test]
fn a_file_that_does_not_say_how_the_one_before_ended_keeps_it() {
    let retain = Retain { files: Some(1), ..Retain::default() };
    for forged in [None, Some(4), Some(9)] {
        let (folder, _) = folder_with(&lines(1, 2));
        for first in [3, 5, 7] {
            std::fs::write(folder.path().join(file_name(first)), lines(forged.filter(|_| first == 5).unwrap_or(first), 2)).unwrap();
        }
        let (open, _, _) = Folder::open(folder.path(), false).unwrap();
        let retired: Vec<_> = open.to_retire(&retain).into_iter().map(|file| (file.name, file.last_seq)).collect();
        let all = [(file_name(1), 2), (file_name(3), 4), (file_name(5), 6), (file_name(7), 8)];
        assert_eq!(retired, all[if forged.is_some() { 2 } else { 0 }..], "{forged:?}");
    }
}
