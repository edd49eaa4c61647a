//! One matrix product for every operation that needs one, over matrices that may be transposed or
//! lie within a wider one, so that nothing is ever copied to fit.

/// A read-only matrix within a slice: element (r, c) is `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix of `rows` × `cols` whose rows begin `row_stride` apart in `data`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows > 0 && cols > 0 && row_stride >= cols);
        assert!(data.len() >= (rows - 1) * row_stride + cols);
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// A matrix whose rows follow one another without a gap.
    pub fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols)
    }

    /// The same numbers, read with rows and columns exchanged.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// `out = scale · a·b`; the rows of `out` begin `out_stride` apart, and it is overwritten.
///
/// One thread only: the batch is split over threads further out, where it pays even for the
/// smallest model.
pub fn matmul(out: &mut [f32], out_stride: usize, scale: f32, a: Matrix, b: Matrix) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(b.rows, k, "inner sizes");
    assert!(out_stride >= n && out.len() >= (m - 1) * out_stride + n);
    // SAFETY: `Matrix::new` and the asserts above keep every index that the sizes and strides reach
    // inside its slice; `out` is borrowed mutably, so it overlaps neither `a` nor `b`; f32 is a
    // type that gemm knows.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            false,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            0.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
