"""The C interface: the functions on Python's objects, which src/c_api.c cannot have, and the capsule of the table."""

cdef inline void set_c_key(cdropout_key *c_key, const stream_key *key) noexcept:
    c_key.word[0] = key.word[0]
    c_key.word[1] = key.word[1]


cdef int mask_of(object mask, cdropout_mask *c_mask) except -1:
    if not isinstance(mask, MaskCore):
        raise TypeError(f"mask must be a cdropout.Mask, got {type(mask).__name__}")
    cdef MaskCore core = <MaskCore>mask
    if not core.is_run:
        raise ValueError(f"mask must take one run of positions, got {mask!r}")
    set_c_key(&c_mask.key, &core.words)
    c_mask.start = core.first
    c_mask.p = core.p
    c_mask.scale = kept_scale(core.p)
    return 0


cdef int strided_mask_of(object mask, cdropout_strided_mask *c_mask) except -1:
    if not isinstance(mask, MaskCore):
        raise TypeError(f"mask must be a cdropout.Mask, got {type(mask).__name__}")
    cdef MaskCore core = <MaskCore>mask
    cdef tuple strides = core.strides
    cdef int axis
    set_c_key(&c_mask.mask.key, &core.words)
    c_mask.mask.start = core.first
    c_mask.mask.p = core.p
    c_mask.mask.scale = kept_scale(core.p)
    c_mask.n_axes = <int>len(core.shape)
    for axis in range(c_mask.n_axes):
        c_mask.lens[axis] = core.shape[axis]
        c_mask.strides[axis] = strides[axis] & 0xFFFFFFFFFFFFFFFF  # those of no elements may be larger
    return 0


cdef int noise_of(object noise, cdropout_noise *c_noise) except -1:
    if not isinstance(noise, NoiseCore):
        raise TypeError(f"noise must be a cdropout.Noise, got {type(noise).__name__}")
    cdef NoiseCore core = <NoiseCore>noise
    set_c_key(&c_noise.key, &core.words)
    c_noise.start = core.first
    c_noise.std = core.std
    return 0


cdef int stream_of(object stream, cdropout_stream *c_stream) except -1:
    if not isinstance(stream, StreamCore):
        raise TypeError(f"stream must be a cdropout.Stream, got {type(stream).__name__}")
    c_stream.key = <const cdropout_key *>&(<StreamCore>stream).words
    c_stream.position = &(<StreamCore>stream).next_elem
    return 0


c_api_table.mask_of = mask_of
c_api_table.noise_of = noise_of
c_api_table.stream_of = stream_of
c_api_table.strided_mask_of = strided_mask_of

# What cdropout.api passes on under its own name.
C_API = PyCapsule_New(&c_api_table, "cdropout.api.C_API", NULL)
