#![no_main]
//! The lines of a recipe, applied to a model of each precision.
use libfuzzer_sys::fuzz_target;
use nanoinfer_format::{Precision, Quant};
use nanoinfer_packer::synthetic::Shape;

fuzz_target!(|bytes: &[u8]| {
    let Ok(lines) = std::str::from_utf8(bytes) else { return };
    let config = Shape::find("smollm2-135m").expect("it is in the table").config();
    for quant in Quant::ALL {
        let mut recipe = Precision::Quant(quant).recipe(&config).expect("every model can have it");
        let before = recipe.bytes(&config);
        if recipe.apply(lines, &config).is_err() {
            assert_eq!(recipe.bytes(&config), before, "an error changes nothing");
        }
        assert!(recipe.bits(&config).read > 0.0);
    }
});
