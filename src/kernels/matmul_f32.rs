//! Matrix products in f32 by `gemm`, on one thread: a batch is shared among threads by documents,
//! which pays even for the smallest model.
//!
//! Views with strides spare the copies of transposed matrices and of slices of wider ones.

/// A view of a matrix in a slice: element `(r, c)` is `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy)]
pub struct MatrixView<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> MatrixView<'a> {
    /// The view of `[rows, cols]` elements whose rows begin `row_stride` apart.
    ///
    /// # Panics
    ///
    /// If the matrix is empty, or its rows overlap or exceed `data`.
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

    /// The view of rows without gaps between them. Panics as [`MatrixView::new`] does.
    pub fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols)
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Returns the element `(row, col)`.
    ///
    /// # Safety
    ///
    /// `row` must be less than `rows()`, and `col` less than `cols()`.
    #[inline(always)]
    pub unsafe fn get_unchecked(&self, row: usize, col: usize) -> f32 {
        // SAFETY: `new` has checked that every element of the matrix is in the slice.
        unsafe {
            *self
                .data
                .get_unchecked(row * self.row_stride + col * self.col_stride)
        }
    }

    /// The transpose, a view of the same elements.
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

/// Returns `a·b`, row-major.
pub fn matmul(a: MatrixView, b: MatrixView) -> Vec<f32> {
    let size = a.rows * b.cols;
    let mut out: Vec<f32> = Vec::with_capacity(size);
    // SAFETY: the capacity is `size`, and gemm writes all elements without reading them. Zeroing
    // them first would take longer than the smaller products.
    unsafe {
        gemm(out.as_mut_ptr(), false, a, b);
        out.set_len(size);
    }
    out
}

/// Adds `a·b` to `out`, which is row-major. Panics unless it has the size of the product.
pub fn matmul_add(out: &mut [f32], a: MatrixView, b: MatrixView) {
    assert_eq!(out.len(), a.rows * b.cols, "size of the product");
    // SAFETY: the size was just checked, and a slice is initialized.
    unsafe { gemm(out.as_mut_ptr(), true, a, b) }
}

/// Writes `a·b`, or adds it to what `out` holds.
///
/// # Safety
///
/// `out` must be valid for reads and writes of `a.rows · b.cols` elements that nothing else
/// accesses; to be added to, they must be initialized.
unsafe fn gemm(out: *mut f32, add: bool, a: MatrixView, b: MatrixView) {
    assert_eq!(b.rows, a.cols, "inner sizes");
    // SAFETY: `MatrixView::new` keeps every index that the sizes and strides reach inside its
    // slice, the caller does so for `out`, and gemm implements f32.
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
