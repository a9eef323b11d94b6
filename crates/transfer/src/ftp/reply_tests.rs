//! Replies as servers send them, in one piece and byte by byte, and as no server may.

use proptest::prelude::*;

use super::*;

fn all(bytes: &[u8], step: usize) -> Result<Vec<Reply>, Malformed> {
    let mut parser = Parser::default();
    let mut found = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        parser.buffer().extend_from_slice(piece);
        while let Some(reply) = parser.next()? {
            found.push(reply);
        }
    }
    Ok(found)
}

#[test]
fn lines_belong_to_one_reply_until_its_code_comes_with_a_space() {
    let bytes = b"220-hello\r\n 220 not the end\r\n221 nor this\r\n220-still\r\n220 end\r\n331 Password\r\n";
    for step in [1, 2, 7, bytes.len()] {
        let found = all(bytes, step).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].code, found[0].lines.len()), (220, 5));
        assert_eq!(found[0].lines[3], b"still");
        assert_eq!((found[1].code, found[1].first()), (331, &b"Password"[..]));
    }
}

#[test]
fn a_bare_code_and_a_bare_line_feed_are_understood() {
    assert_eq!(all(b"211-Features:\n SIZE\n211\n", 3).unwrap()[0].lines.len(), 3);
    assert_eq!(all(b"200\r\n", 1).unwrap()[0].code, 200);
}

#[test]
fn what_no_server_sends_is_refused_in_bounded_memory() {
    assert_eq!(all(&vec![b'2'; 1 << 20], 4096), Err(Malformed::Line));
    assert!(matches!(all(b"SSH-2.0-x\r\n", 5), Err(Malformed::Code(_))));
    assert!(matches!(all(b"999 x\r\n", 5), Err(Malformed::Code(_))));
    assert!(matches!(all(b"2201 x\r\n", 5), Err(Malformed::Code(_))));
    let endless = b"230-x\r\n".repeat(100_000);
    assert_eq!(all(&endless, 4096), Err(Malformed::Reply));
    let wide = [b"230-".to_vec(), vec![b'x'; 8000], b"\r\n".to_vec()].concat().repeat(100);
    assert_eq!(all(&wide, 4096), Err(Malformed::Reply));
}

#[test]
fn text_is_shown_escaped_and_short() {
    let reply = all(b"550 \x1b[2J no\r\n", 100).unwrap().remove(0);
    assert_eq!(reply.to_string(), "the server answered 550 \\u{1b}[2J no");
    let long = Reply { code: 550, lines: vec![vec![b'x'; 5000]] };
    assert!(long.to_string().len() < 400);
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_give_the_same_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), step in 1usize..40) {
        prop_assert_eq!(all(&bytes, step), all(&bytes, 600));
    }

    #[test]
    fn lines_of_a_server_give_the_same_in_any_pieces(
        lines in prop::collection::vec("(2[0-3]0|1[25]0|550)[ -][ -~]{0,20}", 0..20), step in 1usize..40,
    ) {
        let bytes = lines.join("\r\n").into_bytes();
        prop_assert_eq!(all(&bytes, step), all(&bytes, 600));
    }
}
