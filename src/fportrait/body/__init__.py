"""The guide mesh: body models behind one interface (embedded, SMPL-X, MHR), poses, landmarks and normal maps."""
