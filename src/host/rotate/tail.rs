//! Where lines begin and end in a file of any size.

use std::{fs::File, io, os::unix::fs::FileExt};

/// How many bytes are looked at in one go, so that neither a long line nor a large file takes memory.
pub(super) const PIECE: usize = 256 * 1024;

/// Where the last `keep` lines begin of the file's first `size` bytes. What follows the last line end is a line, too, and
/// stays even where none is to be kept: somebody may be in the middle of it.
pub(super) fn start_of_tail(file: &File, size: u64, keep: u64) -> io::Result<u64> {
    let is_whole = size > 0 && byte(file, size - 1)? == b'\n';
    let ends = if is_whole { keep.saturating_add(1) } else { keep.max(1) };
    Ok(nth_end_from_behind(file, 0, size, ends)?.unwrap_or(0))
}

/// Where the last whole line ends between `from`, which is the start of one, and `to`: `from` where there is none.
pub(super) fn end_of_lines(file: &File, from: u64, to: u64) -> io::Result<u64> {
    Ok(nth_end_from_behind(file, from, to, 1)?.unwrap_or(from))
}

/// How many line ends the first `size` bytes have.
pub(super) fn count_lines(file: &File, size: u64) -> io::Result<u64> {
    let (mut lines, mut at, mut piece) = (0, 0, vec![0; PIECE]);
    while at < size {
        let piece = fill(file, &mut piece, at, size)?;
        lines += piece.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
        at += piece.len() as u64;
    }
    Ok(lines)
}

/// How many bytes `a` from `a_from` to `a_to` and `b` from `b_from` on have in common at their beginning.
pub(super) fn common(a: &File, a_from: u64, a_to: u64, b: &File, b_from: u64) -> io::Result<u64> {
    let b_to = b.metadata()?.len();
    let both = a_to.saturating_sub(a_from).min(b_to.saturating_sub(b_from));
    let (mut done, mut of_a, mut of_b) = (0, vec![0; PIECE], vec![0; PIECE]);
    while done < both {
        let of_a = fill(a, &mut of_a, a_from + done, a_from + both)?;
        let of_b = fill(b, &mut of_b, b_from + done, b_from + both)?;
        let same = of_a.iter().zip(of_b).take_while(|(a, b)| a == b).count();
        done += same as u64;
        if same < of_a.len() {
            break;
        }
    }
    Ok(done)
}

/// The byte at `at`.
pub(super) fn byte(file: &File, at: u64) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(byte[0])
}

/// Reads as much of `at` to `to` as fits.
pub(super) fn fill<'a>(file: &File, piece: &'a mut [u8], at: u64, to: u64) -> io::Result<&'a [u8]> {
    let length = usize::try_from(to - at).unwrap_or(usize::MAX).min(piece.len());
    file.read_exact_at(&mut piece[..length], at)?;
    Ok(&piece[..length])
}

/// The place behind the `n`th line end, counted backwards from `to`; none where `from` comes first.
fn nth_end_from_behind(file: &File, from: u64, to: u64, n: u64) -> io::Result<Option<u64>> {
    let (mut end, mut left, mut piece) = (to, n, vec![0; PIECE]);
    while end > from {
        let start = end.saturating_sub(PIECE as u64).max(from);
        let piece = fill(file, &mut piece, start, end)?;
        for (at, _) in piece.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            left -= 1;
            if left == 0 {
                return Ok(Some(start + at as u64 + 1));
            }
        }
        end = start;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(text: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file
    }

    fn kept(text: &str, keep: u64) -> &str {
        let start = start_of_tail(&file(text.as_bytes()), text.len() as u64, keep).unwrap();
        &text[usize::try_from(start).unwrap()..]
    }

    #[test]
    fn the_tail_has_the_last_lines() {
        assert_eq!(kept("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(kept("a\nb\nc\n", 3), "a\nb\nc\n");
        assert_eq!(kept("a\nb\nc\n", 9), "a\nb\nc\n");
        assert_eq!(kept("a\nb\nc\n", 0), "");
        assert_eq!(kept("a\r\nb\r\n", 1), "b\r\n");
        assert_eq!(kept("\n\n\n", 2), "\n\n");
        assert_eq!(kept("", 1), "");
    }

    #[test]
    fn a_line_without_an_end_is_a_line_and_always_kept() {
        assert_eq!(kept("a\nb\nc", 2), "b\nc");
        assert_eq!(kept("a\nb\nc", 1), "c");
        assert_eq!(kept("a\nb\nc", 0), "c");
        assert_eq!(kept("endless", 1), "endless");
    }

    #[test]
    fn lines_may_be_longer_than_a_piece() {
        let mut text = vec![b'x'; 3 * PIECE];
        text.push(b'\n');
        text.extend(vec![b'y'; PIECE - 1]);
        text.push(b'\n');
        text.extend(vec![b'z'; 2 * PIECE]);
        let (file, size, first) = (file(&text), text.len() as u64, 3 * PIECE as u64 + 1);
        assert_eq!(start_of_tail(&file, size, 2).unwrap(), first);
        assert_eq!(start_of_tail(&file, size, 1).unwrap(), first + PIECE as u64);
        assert_eq!(start_of_tail(&file, size, 3).unwrap(), 0);
        assert_eq!(count_lines(&file, size).unwrap(), 2);
        assert_eq!(end_of_lines(&file, 0, size).unwrap(), first + PIECE as u64);
        assert_eq!(end_of_lines(&file, first + PIECE as u64, size).unwrap(), first + PIECE as u64);
    }

    #[test]
    fn what_two_files_have_in_common_is_found_at_any_place() {
        let (a, b) = (file(b"..one\ntwo\n"), file(b"one\ntwX"));
        assert_eq!(common(&a, 2, 10, &b, 0).unwrap(), 6);
        assert_eq!(common(&a, 2, 5, &b, 0).unwrap(), 3);
        assert_eq!(common(&a, 0, 10, &b, 0).unwrap(), 0);
        assert_eq!(common(&a, 2, 10, &b, 99).unwrap(), 0);
        let long = vec![b'x'; 2 * PIECE + 7];
        assert_eq!(common(&file(&long), 0, long.len() as u64, &file(&long), 0).unwrap(), long.len() as u64);
    }
}
