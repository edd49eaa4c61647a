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

/// `a·b`, row by row.
pub fn product(a: Matrix, b: Matrix) -> Vec<f32> {
    let size = a.rows * b.cols;
    let mut out: Vec<f32> = Vec::with_capacity(size);
    // SAFETY: there is room for `size` values, all of which gemm writes without reading them.
    // Zeroing them first would take longer than some of the smaller products.
    unsafe {
        multiply(out.as_mut_ptr(), b.cols, false, 1.0, a, b);
        out.set_len(size);
    }
    out
}

/// `out = scale · a·b`; the rows of `out` begin `out_stride` apart, and it is overwritten.
pub fn matmul(out: &mut [f32], out_stride: usize, scale: f32, a: Matrix, b: Matrix) {
    check_room(out, out_stride, a, b);
    // SAFETY: there is room for the result, as was just checked.
    unsafe { multiply(out.as_mut_ptr(), out_stride, false, scale, a, b) }
}

/// `out += scale · a·b`; the rows of `out` begin `out_stride` apart.
pub fn add_matmul(out: &mut [f32], out_stride: usize, scale: f32, a: Matrix, b: Matrix) {
    check_room(out, out_stride, a, b);
    // SAFETY: there is room for the result, as was just checked, and it has values to add to.
    unsafe { multiply(out.as_mut_ptr(), out_stride, true, scale, a, b) }
}

fn check_room(out: &[f32], out_stride: usize, a: Matrix, b: Matrix) {
    assert!(out_stride >= b.cols && out.len() >= (a.rows - 1) * out_stride + b.cols);
}

/// One thread only: the batch is split over threads further out, where it pays even for the
/// smallest model.
///
/// # Safety
///
/// From `out` on there has to be room for `a.rows` rows of `b.cols` values, `out_stride` apart,
/// which nothing else uses; where the product is added to them they must have values.
unsafe fn multiply(out: *mut f32, out_stride: usize, add: bool, scale: f32, a: Matrix, b: Matrix) {
    assert_eq!(b.rows, a.cols, "inner sizes");
    // SAFETY: `Matrix::new` keeps every index that the sizes and strides reach inside its slice,
    // the caller does so for `out`, and f32 is a type that gemm knows.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out,
            1,
            out_stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
