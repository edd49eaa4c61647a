//! One matrix product for every operation that needs one, over matrices that may be transposed or
//! lie within a wider one, so that nothing is ever copied to fit.

/// A read-only matrix within a slice: element (r, c) is `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy)]
pub struct MatrixView<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> MatrixView<'a> {
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

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The element in a row and a column.
    ///
    /// # Safety
    ///
    /// The matrix has to have such a row and such a column.
    #[inline(always)]
    pub unsafe fn get_unchecked(&self, row: usize, col: usize) -> f32 {
        // SAFETY: every element of the matrix is in the slice, as `new` has checked.
        unsafe {
            *self
                .data
                .get_unchecked(row * self.row_stride + col * self.col_stride)
        }
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
pub fn matmul(a: MatrixView, b: MatrixView) -> Vec<f32> {
    let size = a.rows * b.cols;
    let mut out: Vec<f32> = Vec::with_capacity(size);
    // SAFETY: there is room for `size` values, all of which gemm writes without reading them.
    // Zeroing them first would take longer than some of the smaller products.
    unsafe {
        multiply(out.as_mut_ptr(), false, a, b);
        out.set_len(size);
    }
    out
}

/// `out += a·b`; `out` is dense.
pub fn matmul_add(out: &mut [f32], a: MatrixView, b: MatrixView) {
    assert_eq!(out.len(), a.rows * b.cols, "the size of the product");
    // SAFETY: there is room for the result, as was just checked, and it has values to add to.
    unsafe { multiply(out.as_mut_ptr(), true, a, b) }
}

/// One thread only: the batch is split over threads further out, where it pays even for the
/// smallest model.
///
/// # Safety
///
/// From `out` on there has to be room for `a.rows` rows of `b.cols` values, which nothing else uses;
/// where the product is added to them they must have values.
unsafe fn multiply(out: *mut f32, add: bool, a: MatrixView, b: MatrixView) {
    assert_eq!(b.rows, a.cols, "inner sizes");
    // SAFETY: `MatrixView::new` keeps every index that the sizes and strides reach inside its slice,
    // the caller does so for `out`, and f32 is a type that gemm knows.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out,
            1,
            b.cols as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
