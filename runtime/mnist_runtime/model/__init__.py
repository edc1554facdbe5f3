"""One model file, its engine, its folder and its proof."""
