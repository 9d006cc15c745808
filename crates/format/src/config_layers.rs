//! What the layers of a model have.

use crate::config::Config;
use crate::norm::NormPlace;
use crate::recurrent::Recurrent;

impl Config {
    /// The recurrence of a layer, if it has one.
    pub fn recurrent_of(&self, layer: usize) -> Option<&Recurrent> {
        self.recurrent.as_ref().filter(|r| r.layers.get(layer) == Some(&true))
    }

    /// Placement of the norms in a layer.
    pub fn norm_place_of(&self, layer: usize) -> NormPlace {
        self.recurrent_of(layer).and_then(|r| r.norm_place).unwrap_or(self.norm_place)
    }

    /// Whether a layer has attention.
    pub fn attends(&self, layer: usize) -> bool {
        self.has_mixer(layer) && self.recurrent_of(layer).is_none_or(|r| r.parallel)
    }

    /// Number of layers with attention.
    pub fn attention_layers(&self) -> usize {
        (0..self.n_layers as usize).filter(|&layer| self.attends(layer)).count()
    }
}
