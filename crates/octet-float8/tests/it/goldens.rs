//! Every f16 and every bf16 value, and every code, as `ml_dtypes` converts them.

use half::{bf16, f16};
use octet_float8::{E4M3, E4M3Fnuz, E5M2, E5M2Fnuz, Float8, slice};

fn read(name: &str, length: usize) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(bytes.len(), length, "{name}");
    bytes
}

fn assert_same_codes(name: &str, ours: &[u8], golden: &[u8]) {
    for (bits, (ours, golden)) in ours.iter().zip(golden).enumerate() {
        assert_eq!(ours, golden, "{name}: input 0x{bits:04X} gave 0x{ours:02X}, ml_dtypes 0x{golden:02X}");
    }
}

fn conversions_agree<F: Float8>() {
    let half: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let brain: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    let mut codes = vec![0; 65536];
    slice::encode::<F, f16>(&half, &mut codes).unwrap();
    assert_same_codes("f16", &codes, &read(&format!("f16_to_{}.bin", F::NAME), 65536));
    slice::encode::<F, bf16>(&brain, &mut codes).unwrap();
    assert_same_codes("bf16", &codes, &read(&format!("bf16_to_{}.bin", F::NAME), 65536));

    let golden = read(&format!("{}_to_f32.bin", F::NAME), 1024);
    for (code, bytes) in golden.chunks_exact(4).enumerate() {
        let golden = f32::from_le_bytes(bytes.try_into().unwrap());
        let ours = F::from_bits(code as u8).to_f32();
        assert!(
            ours.to_bits() == golden.to_bits() || (ours.is_nan() && golden.is_nan()),
            "{}: code 0x{code:02X} gave {ours}, ml_dtypes {golden}",
            F::NAME
        );
    }
}

#[test]
fn e4m3_agrees_with_ml_dtypes() {
    conversions_agree::<E4M3>();
}

#[test]
fn e4m3_fnuz_agrees_with_ml_dtypes() {
    conversions_agree::<E4M3Fnuz>();
}

#[test]
fn e5m2_agrees_with_ml_dtypes() {
    conversions_agree::<E5M2>();
}

#[test]
fn e5m2_fnuz_agrees_with_ml_dtypes() {
    conversions_agree::<E5M2Fnuz>();
}
