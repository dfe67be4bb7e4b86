//! SHA-1 (RFC 3174), for the names that SQUAD gives to builds and for nothing that must be safe.

/// The digest's first 8 hexadecimal digits.
pub(super) fn first_8(text: &str) -> String {
    let mut message = text.as_bytes().to_vec();
    let bits = (message.len() as u64).wrapping_mul(8);
    message.push(0x80);
    message.resize(message.len().next_multiple_of(64), 0);
    if message.len() < text.len() + 9 {
        message.resize(message.len() + 64, 0);
    }
    let length_at = message.len() - 8;
    message.truncate(length_at);
    message.extend_from_slice(&bits.to_be_bytes());
    let (blocks, _) = message.as_chunks::<64>();
    let start = [
        0x6745_2301,
        0xEFCD_AB89,
        0x98BA_DCFE,
        0x1032_5476,
        0xC3D2_E1F0,
    ];
    let [first, ..] = blocks.iter().fold(start, compress);
    format!("{first:08x}")
}

fn compress(state: [u32; 5], block: &[u8; 64]) -> [u32; 5] {
    let mut words = [0_u32; 80];
    let (quads, _) = block.as_chunks::<4>();
    for (word, quad) in words.iter_mut().zip(quads) {
        *word = u32::from_be_bytes(*quad);
    }
    for t in 16..80 {
        words[t] = (words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16]).rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = state;
    for (t, word) in words.iter().enumerate() {
        let (mix, constant) = match t {
            0..20 => ((b & c) | (!b & d), 0x5A82_7999),
            20..40 => (b ^ c ^ d, 0x6ED9_EBA1),
            40..60 => ((b & c) | (b & d) | (c & d), 0x8F1B_BCDC),
            _ => (b ^ c ^ d, 0xCA62_C1D6_u32),
        };
        let next = a
            .rotate_left(5)
            .wrapping_add(mix)
            .wrapping_add(e)
            .wrapping_add(*word)
            .wrapping_add(constant);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    let [h0, h1, h2, h3, h4] = state;
    [
        h0.wrapping_add(a),
        h1.wrapping_add(b),
        h2.wrapping_add(c),
        h3.wrapping_add(d),
        h4.wrapping_add(e),
    ]
}

#[cfg(test)]
mod tests {
    use super::first_8;

    #[test]
    fn digests_are_those_of_the_standard() {
        assert_eq!(first_8(""), "da39a3ee");
        assert_eq!(first_8("abc"), "a9993e36");
        assert_eq!(
            first_8("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "84983e44"
        );
        assert_eq!(first_8(&"a".repeat(1000)), "291e9a6c");
        assert_eq!(first_8(&"a".repeat(55)), "c1c8bbdc");
        assert_eq!(first_8(&"a".repeat(64)), "0098ba82");
    }
}
