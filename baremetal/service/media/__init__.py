"""Kernels, installer trees and loaders: which file a name means, and how media get there."""
