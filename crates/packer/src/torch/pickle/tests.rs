//! Hand-written pickles, valid and invalid. `torch.rs` tests a file written by PyTorch.

use super::*;

/// `{"w": <2×3 float32 tensor at value 4 of storage "0">}` as `torch.save` writes it.
fn valid() -> Vec<u8> {
    let mut p =
        b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02".to_vec();
    p.extend(b"((X\x07\x00\x00\x00storageq\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05");
    p.extend(b"X\x03\x00\x00\x00cpuq\x06K\x0atq\x07QK\x04K\x02K\x03\x86q\x08K\x03K\x01\x86q\x09");
    p.extend(b"\x89ccollections\nOrderedDict\nq\x0a)Rq\x0btq\x0cRq\x0ds.");
    p
}

#[test]
fn a_state_dict() {
    let tensors = tensors(&valid()).unwrap();
    let expected = TensorRef {
        key: "0".into(),
        class: "FloatStorage",
        numel: 10,
        offset: 4,
        shape: vec![2, 3],
        strides: vec![3, 1],
    };
    assert_eq!(tensors, [("w".to_owned(), expected)]);
}

#[test]
fn every_truncation_is_an_error() {
    let pickle = valid();
    for len in 0..pickle.len() {
        assert!(tensors(&pickle[..len]).is_err(), "{len}");
    }
}

#[test]
fn other_programs_are_refused() {
    let deep = [b"\x80\x02".as_slice(), b")", &b"\x85".repeat(1_000_000), b"."].concat();
    let cyclic = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.".to_vec();
    for (pickle, expected) in [
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.".to_vec(), "\"os.system\""),
        (b"\x80\x02c__builtin__\neval\n.".to_vec(), "\"__builtin__.eval\""),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.".to_vec(), "\"posix.system\""),
        (b"\x80\x02ctorch\nload\n.".to_vec(), "\"torch.load\""),
        (
            b"\x80\x02ccollections\nOrderedDict\nN\x85R.".to_vec(),
            "a call that a state dict does not need",
        ),
        (b"\x80\x02ccollections\nOrderedDict\nNR.".to_vec(), "a call without arguments"),
        (b"\x80\x02i\n\n.".to_vec(), "opcode 0x69"),
        (b"\x80\x02\x81.".to_vec(), "opcode 0x81"),
        (b"\x80\x05.".to_vec(), "protocol 5"),
        (b"\x80\x02.".to_vec(), "the stack is empty"),
        (b"\x80\x02N(.".to_vec(), "the stack is empty"),
        (b"\x80\x02t.".to_vec(), "no mark on the stack"),
        (b"\x80\x02h\x07.".to_vec(), "memo entry 7 does not exist"),
        (b"\x80\x02}(Nu.".to_vec(), "a key without a value"),
        (b"\x80\x02NNNs.".to_vec(), "not a dict"),
        (b"\x80\x02NQ.".to_vec(), "a storage that is not a tuple"),
        (b"\x80\x02)Q.".to_vec(), "a storage of 0 fields"),
        (b"\x80\x02X\xff\xff\xff\xffa.".to_vec(), "expected 4294967295 more bytes"),
        (b"\x80\x02\x8a\xff\x00.".to_vec(), "expected 255 more bytes"),
        (b"\x80\x02N.".to_vec(), "not a state dict"),
        (b"\x80\x02}NNs.".to_vec(), "keys are not strings"),
        (b"\x80\x02}X\x01\x00\x00\x00aNs.".to_vec(), "\"a\" is not a tensor"),
        (deep, "not a state dict"),
        (cyclic, "\"a\" is not a tensor"),
    ] {
        let error = tensors(&pickle).unwrap_err();
        assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
    }
}
