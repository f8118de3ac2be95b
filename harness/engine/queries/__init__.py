"""What is asked of the model: token spans, prefix trees and batches. Integers only, no tensors."""
