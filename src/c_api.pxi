"""The functions of the C interface on Python objects, which c_api.c as plain C cannot have, and the table's capsule.
Part of _kernels.pyx: it reads the fields of MaskCore, NoiseCore and StreamCore. cdropout.api exports the capsule."""

cdef inline void set_c_key(cdropout_key *c_key, const stream_key *key) noexcept:
    c_key.word[0] = key.word[0]
    c_key.word[1] = key.word[1]


cdef Mask checked_mask(object mask):
    if not isinstance(mask, Mask):
        raise TypeError(f"mask must be a cdropout.Mask, got {type(mask).__name__}")
    return <Mask>mask


cdef void set_c_mask(cdropout_mask *c_mask, Mask mask) noexcept:
    set_c_key(&c_mask.key, &mask.key_words)
    c_mask.start = mask.first
    c_mask.p = mask.p
    c_mask.scale = kept_scale(mask.p)


cdef int mask_of(object mask, cdropout_mask *c_mask) except -1:
    cdef Mask core = checked_mask(mask)
    if core.part_strides is not None:
        raise ValueError(f"mask must take one run of positions, got {mask!r}")
    set_c_mask(c_mask, core)
    return 0


cdef uint64_t u64_or_zero(object number) except? 0:
    """A stride; 0 for one of more than 64 bits, which only a mask without elements can have."""
    return number if number < 1 << 64 else 0


cdef int strided_mask_of(object mask, cdropout_strided_mask *c_mask) except -1:
    cdef Mask core = checked_mask(mask)
    cdef tuple strides = core.all_strides()
    cdef int axis
    set_c_mask(&c_mask.mask, core)
    c_mask.n_axes = <int>len(core.shape)
    for axis in range(c_mask.n_axes):
        c_mask.lens[axis] = core.shape[axis]
        c_mask.strides[axis] = u64_or_zero(strides[axis])
    return 0


cdef int noise_of(object noise, cdropout_noise *c_noise) except -1:
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be a cdropout.Noise, got {type(noise).__name__}")
    cdef Noise core = <Noise>noise
    set_c_key(&c_noise.key, &core.key_words)
    c_noise.start = core.first
    c_noise.std = core.std
    return 0


cdef int stream_of(object stream, cdropout_stream *c_stream) except -1:
    if not isinstance(stream, Stream):
        raise TypeError(f"stream must be a cdropout.Stream, got {type(stream).__name__}")
    c_stream.key = <const cdropout_key *>&(<Stream>stream).key_words
    c_stream.position = &(<Stream>stream).next_elem
    return 0


c_api_table.mask_of = mask_of
c_api_table.noise_of = noise_of
c_api_table.stream_of = stream_of
c_api_table.strided_mask_of = strided_mask_of

# cdropout.api exports it under the same name, which is part of the interface.
C_API = PyCapsule_New(&c_api_table, "cdropout.api.C_API", NULL)
