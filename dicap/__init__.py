"""DiCap: diffusion-based counterfactual prompt learning, a plugin for Dassl.pytorch (arXiv 2507.19882)."""
__version__ = "0.1.0"
